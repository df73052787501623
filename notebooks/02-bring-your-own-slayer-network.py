# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Bring your own SLAYER network
#
# A network of lava-dl's own `slayer.block.cuba` blocks, in a class of your own, made exact with three settings: a quantiser in SLAYER's
# place for one, no delay of a step between the blocks, and a threshold that is met where the chip meets it. It is trained for a few epochs
# on 8x8 digits, scored by SVS, frozen to integers, held against the simulator spike for spike, and mapped onto cores.
#
# It runs in well under a minute on two cores and needs the training extras (see docs/install.md).

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import mapping
from netx_export import engine
from netx_export.errors import FreezeError
from netx_export.integers import stored_bits
from netx_export.lava_compat import import_slayer
from netx_export.network import Rate
from netx_export.simulate import decide
from qpsnn_lava import plots, prune
from qpsnn_lava.coding import Coding, encode
from qpsnn_lava.config import load_experiment
from qpsnn_lava.data import load
from qpsnn_lava.freeze import freeze
from qpsnn_lava.fused import fuse
from qpsnn_lava.pipeline import set_threads
from qpsnn_lava.quantise import ReScaW
from qpsnn_lava.train import Schedule, train

set_threads(load_experiment("digits"))
slayer = import_slayer()  # lava.lib.dl.slayer, with what it needs on a current Python and torch
digits = load("digits")
coding = Coding("direct", steps=8, input_bits=4)

# %% [markdown]
# ## The network
#
# Stock blocks, and for each synapse:
#
# - `pre_hook_fx = ReScaW(bits=4)`: SLAYER calls it on the weights in every forward pass. They become `q * 2**k / 64`, and a whole number of
#   64ths is what the chip stores. The gradient passes straight through to the real weights.
# - `delay_shift=False`: SLAYER otherwise shifts every block's spikes by a step.
# - `threshold_eps = 1 / s_scale`: the chip fires where the voltage is above the threshold, SLAYER where it is at it or above. One unit of
#   its grid makes the two the same.
#
# `freeze` refuses, by layer and number, what is forgotten here. The output is read as a rate: the spikes of each class are counted.

# %%
NEURON = {"threshold": 1.25, "current_decay": 0.25, "voltage_decay": 0.1}


class Mine(torch.nn.Module):
    def __init__(self, bits: int = 4) -> None:
        super().__init__()
        cuba = slayer.block.cuba
        self.blocks = torch.nn.ModuleList(
            [
                cuba.Conv(NEURON, 1, 12, 3, padding=1, weight_scale=2, delay_shift=False),
                cuba.Conv(NEURON, 12, 24, 3, stride=2, padding=1, weight_scale=3, delay_shift=False),
                cuba.Flatten(),
                cuba.Dense(NEURON, 24 * 4 * 4, 10, weight_scale=3, delay_shift=False),
            ]
        )
        for block in self.blocks:
            if hasattr(block, "synapse"):
                block.synapse.pre_hook_fx = ReScaW(bits)
                block.neuron.threshold_eps = 1 / block.neuron.s_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


torch.manual_seed(0)
model = Mine()
print(sum(p.numel() for p in model.parameters() if p.requires_grad), "parameters")

# %% [markdown]
# ## Training
#
# Any loop will do; this is the project's. `fuse` puts its faster neurons and convolutions in the place of SLAYER's, with the same spikes.
# A rate read-out is trained on the counts of the spikes.

# %%
replaced = fuse(model)
best = train(model, digits, coding, Schedule(epochs=8, learning_rate=3e-3, batch=64), readout=Rate(digits.classes))
print(replaced, "parts on the fused dynamics; validation:", best.validation)

# %% [markdown]
# ## What the quantiser did
#
# The real weights of the second convolution, and the integers that the forward pass computes with, which share a factor `2**k`. The scale
# is the mean magnitude, so that every weight beyond it stands on one of the two outermost levels.

# %%
synapse = model.blocks[1].synapse
real = synapse.weight.detach().flatten().numpy()
device = synapse.pre_hook_fx(synapse.weight, descale=True).detach().flatten().numpy().astype(int)
print("levels:", np.unique(device))

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.4), layout="constrained")
left.hist(real, bins=61, color="0.5")
left.set(title="real weights", xlabel="SLAYER's units", ylabel="weights")
levels, counts = np.unique(device, return_counts=True)
right.bar(levels, counts, width=0.8 * np.diff(levels).min(), color="tab:blue")
right.set(title="what the chip stores", xlabel="integer")

# %% [markdown]
# ## SVS on stock blocks
#
# Scoring needs nothing of the network but its blocks: it hooks them, runs training images through, and counts the singular values above
# eps of each channel's map of spike rates. A channel that scores 0 never fires; one whose rates form a simple pattern scores low.

# %%
scores = prune.score(model, digits, coding, samples=256, eps=1e-6, seed=0)
for index, one in scores.items():
    print(f"block {index}: ranks {one.value.min():.2f}..{one.value.max():.2f} of {len(one.value)} channels, halves of the images agree: {one.stability:.2f}")

figure, axes = plt.subplots(1, len(scores), figsize=(8, 2.4), layout="constrained")
for panel, (index, one) in zip(axes, scores.items()):
    panel.bar(range(len(one.value)), np.sort(one.value)[::-1], color="tab:blue")
    panel.set(title=f"block {index}", xlabel="channels, best first", ylabel="mean rank")

# %% [markdown]
# ## Freezing
#
# The integers of the forward pass become an immutable `Network`. What is not exact is refused; here, a block that somebody made with
# SLAYER's default delay.

# %%
network = freeze(model, (1, 8, 8), coding.steps, input_bits=coding.input_bits, readout=Rate(digits.classes))
for population in network.populations[1:]:
    weight = network.into(population.name)[0].synapse.weight
    print(f"{population.name}: {population.shape}, {population.neuron}, weights {weight.min()}..{weight.max()} in {stored_bits(weight)} bits")

model.blocks[0].delay_shift = True
try:
    freeze(model, (1, 8, 8), coding.steps, input_bits=coding.input_bits)
except FreezeError as error:
    print("refused:", error)
model.blocks[0].delay_shift = False

# %%
plots.weights_figure(network)

# %% [markdown]
# ## Exact
#
# The simulator's spikes against those of the SLAYER model, of every layer, over the whole test set.

# %%
spikes = encode(digits.test.images, coding, max_value=digits.max_value, seed=0, indices=digits.test.indices)
run = engine.simulate_fast(network, spikes)
decided, ties = decide(network, run)
print(f"integer test accuracy: {100 * np.mean(decided == digits.test.labels):.1f} % of {len(decided)}, {int((ties > 1).sum())} ties")

x = torch.from_numpy(spikes).float()
populations = iter(network.populations[1:])
model.eval()
with torch.no_grad():
    for block in model.blocks:
        x = block(x)
        if hasattr(block, "synapse"):
            exact = run.spikes[next(populations).name]
            different = int((x.numpy().reshape(exact.shape) != exact).sum())
            print(f"{type(block).__name__}: {different} of {exact.size} spikes differ, {100 * exact.mean():.1f} % are spikes")
            assert different == 0 and exact.any()

# %% [markdown]
# ## Cores
#
# The same network on Loihi 2. From here on it is a network like any other: `netx_export.hdf5.write(network, path)` makes the file that
# `qpsnn verify`, `qpsnn map` and lava-dl's own reader take. The numbers of the chip are a model of public evidence, not Intel's compiler,
# and nothing here was run on hardware.

# %%
placed = mapping.map_network(network, mapping.load_chip("loihi2"))
mapping.require(network, placed)
used = mapping.utilisation(network, placed)
print(used.verdict)
for row in used.layers:
    if row.cores:
        print(f"{row.name}: {row.cores} core, {row.neurons} neurons, {row.synapse_words_total} words, {row.binding} {row.binding_percent:.0f} % full")
