# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train, prune, deploy
#
# The whole flow on 8x8 digits, step by step, with the Python API: train a spiking network in SLAYER with the chip's integers in
# its forward pass, cut half of its channels, freeze it to integers, write the netx file, run that file exactly and on Lava, and
# count the Loihi cores that it takes. `qpsnn run digits` does the same with more epochs and writes a report.
#
# It runs in well under a minute on two cores and needs the training extras (see docs/install.md).

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import mapping
from netx_export import engine, hdf5
from netx_export.integers import stored_bits
from netx_export.lava_run import run_lava
from netx_export.simulate import decide
from qpsnn_lava import blocks, plots, prune
from qpsnn_lava.coding import Coding, encode
from qpsnn_lava.config import load_experiment
from qpsnn_lava.data import load
from qpsnn_lava.freeze import freeze
from qpsnn_lava.model import build, parameters_of, set_quantised
from qpsnn_lava.pipeline import set_threads
from qpsnn_lava.train import Schedule, calibrate, evaluate, train

# %% [markdown]
# ## The experiment
#
# An experiment is a TOML file; here it is the built-in one with a few values replaced, so that it trains quickly. A misspelt key
# or a wrong type is an error that says what is allowed.

# %%
experiment = load_experiment(
    "digits",
    ["train.epochs=6", "train.quantised_epochs=3", "train.finetune_epochs=4", "network.0.channels=16", "network.1.channels=24", "network.2.channels=32"],
)
settings = experiment.train
set_threads(experiment)
for layer in experiment.network:
    print(layer)

# %% [markdown]
# ## The data
#
# 1,797 images, split once by the seed. The validation set chooses the checkpoint, the test set is read at the end. A pixel (0..16)
# becomes a graded spike of 4 bits, the same in each of the 4 time steps ("direct" coding). Spikes are always
# `(batch, C, H, W, time)`.

# %%
digits = load(experiment.data.name, seed=experiment.seed)
coding = Coding(experiment.data.coding, experiment.data.steps, experiment.data.input_bits)
shape = digits.train.images.shape[1:]
print(len(digits.train), "training,", len(digits.validation), "validation,", len(digits.test), "test images of shape", shape)

spikes = encode(digits.test.images, coding, max_value=digits.max_value, seed=experiment.seed, indices=digits.test.indices)
print("input:", spikes.shape, "values", spikes.min(), "to", spikes.max())

# %%
figure, axes = plt.subplots(1, 8, figsize=(8, 1.3))
for panel, image, label in zip(axes, digits.test.images, digits.test.labels):
    panel.imshow(image[0], cmap="gray_r")
    panel.set(title=str(label), xticks=[], yticks=[])

# %% [markdown]
# ## Float training
#
# `build` makes the SLAYER network: convolution, batch normalisation and leaky integrate-and-fire neurons, and a read-out that
# sums up its current. It starts in float.

# %%
torch.manual_seed(experiment.seed)
model = build(experiment, shape, digits.classes, coding.input_max)


def schedule(epochs: int, frozen: int, stream: int) -> Schedule:
    return Schedule(
        epochs,
        frozen_epochs=frozen,
        batch=settings.batch,
        learning_rate=settings.learning_rate,
        augment=settings.augment,
        seed=experiment.seed + stream,
    )


print(parameters_of(model), "parameters")
best = train(model, digits, coding, schedule(settings.epochs, 0, 0))
print("float, validation:", best.validation)

# %% [markdown]
# ## Quantised training (ReScaW)
#
# From here on the forward pass computes with the chip's integers: each layer's weights are divided by their mean magnitude, put
# on a grid of 4 bits (the read-out: 8) and the gradient passes straight through. In the last epochs the statistics of the batch
# normalisation stand still, because they are folded into the weights.

# %%
set_quantised(model, True)
best = train(model, digits, coding, schedule(settings.quantised_epochs, 1, 1))
print("quantised, validation:", best.validation)

# %% [markdown]
# ## Pruning (SVS)
#
# A channel's score is the number of singular values above eps of its map of spike rates, averaged over training images. Half of
# each layer's channels stay; the read-out stays whole. `cut` returns a new model with smaller tensors.

# %%
scores = prune.score(model, digits, coding, samples=256, eps=experiment.prune.eps, seed=experiment.seed)
kept = prune.choose(scores, 0.5, "layer", experiment.prune.tie_break)
for index, score in scores.items():
    print(f"block {index}: scores {score.value.min():.2f}..{score.value.max():.2f}, keeps {len(kept[index])} of {len(score.value)}")

small = prune.cut(model, kept, shape)
print(parameters_of(model), "->", parameters_of(small), "parameters")

# %% [markdown]
# The cut changes what arrives at every layer, so the statistics are estimated anew, and the small model is fine-tuned.

# %%
calibrate(small, digits, coding, samples=1024, batch=settings.batch, seed=experiment.seed)
print("cut, validation:       ", evaluate(small, digits.validation, digits, coding))
best = train(small, digits, coding, schedule(settings.finetune_epochs, 1, 2))
print("fine-tuned, validation:", best.validation)

# %% [markdown]
# ## Freezing
#
# `freeze` takes the integers that the forward pass computes with and rounds nothing. What the chip has no place for, or what could
# overflow, is refused here, with the layer, the number and the limit.

# %%
network = freeze(small, shape, coding.steps, input_bits=coding.input_bits)
for population in network.populations[1:]:
    weight = network.into(population.name)[0].synapse.weight
    print(f"{population.name}: {population.shape}, {population.neuron}, weights {weight.min()}..{weight.max()} in {stored_bits(weight)} bits")

# %%
plots.weights_figure(network)

# %% [markdown]
# ## The netx file
#
# One HDF5 file in lava-dl's format; what is read back is equal to what was written.

# %%
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "network.net"
hdf5.write(network, path)
assert hdf5.read(path) == network
print(path.name, path.stat().st_size, "bytes")

# %% [markdown]
# ## The exact run, and accuracy
#
# The simulator computes the chip's integers over the whole test set. The SLAYER model is held against it: the same spikes, all of
# them, in every layer.

# %%
run = engine.simulate_fast(network, spikes)
decided, ties = decide(network, run)
print(f"integer test accuracy: {100 * np.mean(decided == digits.test.labels):.1f} % of {len(decided)}, {int((ties > 1).sum())} ties")
for population in network.populations[1:-1]:
    print(f"{population.name} fires at {100 * run.spikes[population.name].mean():.1f} % per neuron and step")

# %%
seen: list[torch.Tensor] = []
weighted = [block for block in blocks.blocks_of(small) if hasattr(block, "synapse")]
hooks = [block.register_forward_hook(lambda block, inputs, output: seen.append(output)) for block in weighted]
with torch.no_grad():
    small(torch.from_numpy(spikes).float())
for hook in hooks:
    hook.remove()

for population, output in zip(network.populations[1:-1], seen):
    different = int((output.numpy() != run.spikes[population.name]).sum())
    print(f"{population.name}: {different} of {output.numel()} spikes differ between SLAYER and the simulator")
    assert different == 0

# %% [markdown]
# ## Lava
#
# The stock lava-dl reader loads the file, and Lava's fixed-point models run it, in a child process. Four samples are enough to show
# it; the output neurons' voltages at the end of each window are the same integers.

# %%
lava = run_lava(path, spikes[:4], voltage=True, timeout=120)
assert np.array_equal(lava.voltage, run.voltage[network.output.name][:4, ..., -1])
assert np.array_equal(lava.spikes, run.spikes[network.output.name][:4])
print("Lava decides", lava.voltage.argmax(1), "and the simulator", decided[:4], "- the labels are", digits.test.labels[:4])

# %% [markdown]
# ## The mapping
#
# Every neuron gets a place on a core of the chip; a checker that shares no code with the mapper counts everything again. The chip's
# numbers are a model of public evidence, not Intel's compiler, and nothing here was run on hardware. So small a network takes one
# core per layer whatever is cut; in larger ones fewer words mean fewer cores.

# %%
chip = mapping.load_chip("loihi2")
unpruned = freeze(model, shape, coding.steps, input_bits=coding.input_bits)
for label, one in (("unpruned", unpruned), ("pruned", network)):
    placed = mapping.map_network(one, chip)
    mapping.require(one, placed)
    used = mapping.utilisation(one, placed)
    print(f"{label}: {used.synapse_words} synapse words, {used.verdict}")

# %%
for row in used.layers:
    if row.cores:
        print(f"{row.name}: {row.cores} core, {row.neurons} neurons, {row.synapse_words_total} words, {row.binding} {row.binding_percent:.0f} % full")

# %%
folder.cleanup()
