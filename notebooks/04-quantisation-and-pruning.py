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
# # Quantisation and pruning explored
#
# What ReScaW does to weights, what the six criteria see in the same network, what a chip makes of a width, and then the question that
# matters: which of these choices can be told apart in accuracy? That is what `qpsnn ablate` is for; the last part makes a small ablation
# and shows the recorded one on Fashion-MNIST.
#
# It runs in about a minute on two cores and needs the training extras (see docs/install.md).

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import mapping
import qpsnn_lava
from netx_export.integers import stored_bits
from qpsnn_lava import pipeline, prune
from qpsnn_lava.ablate import ablate
from qpsnn_lava.ablation import load_plan
from qpsnn_lava.ablation_plots import accuracy_figure, difference_figure
from qpsnn_lava.ablation_report import difference_text, place_text
from qpsnn_lava.config import load_experiment
from qpsnn_lava.criteria import CRITERIA
from qpsnn_lava.model import own_blocks, set_quantised
from qpsnn_lava.quantise import Quantiser, grid_use, integers
from qpsnn_lava.train import Schedule, train

# %% [markdown]
# ## A network to look at
#
# Digits, three narrow convolutions, a few epochs in float.

# %%
small = ["network.0.channels=16", "network.1.channels=24", "network.2.channels=32"]
experiment = load_experiment("digits", small)
pipeline.set_threads(experiment)
digits, coding = pipeline.data_of(experiment), pipeline.coding_of(experiment)
torch.manual_seed(experiment.seed)
model = pipeline.untrained(experiment, digits)
print(train(model, digits, coding, Schedule(epochs=8, batch=32, learning_rate=2e-3, seed=experiment.seed)).validation)
weight = list(own_blocks(model))[1].scaled_weight().detach()  # of the second convolution, with its normalisation folded in
print("weights of conv2:", tuple(weight.shape), "largest", f"{float(weight.abs().max()):.2f}", "mean", f"{float(weight.abs().mean()):.3f}")

# %% [markdown]
# ## The grid, with and without a scale
#
# Without rescaling (`gamma = "none"`) the grid ends at 1, far beyond most weights: only its middle is used. R is the share of the
# grid that the weights reach (equation 8 of the paper), without and with the division by gamma. Each gamma is a different bargain between
# fine steps and clipped weights.

# %%
for bits in (8, 4, 2):
    for gamma in ("none", "max", "percentile", "mean_abs"):
        quantiser = Quantiser(bits, gamma=gamma)
        q, step = integers(weight, quantiser)
        before, after = grid_use(weight, quantiser)
        error = float((step * q - weight).square().mean().sqrt() / weight.std())
        zero = float((q == 0).float().mean())
        print(f"{bits} bit, gamma {gamma:10}  R {before:4.0%} -> {after:4.0%}   zeros {zero:4.0%}   error {error:.2f} of the weights' deviation")

# %%
figure, panels = plt.subplots(1, 3, figsize=(9, 2.3), layout="constrained")
for panel, (gamma, segments) in zip(panels, (("none", 1), ("mean_abs", 1), ("max", 2))):
    q, step = integers(weight, Quantiser(4, gamma=gamma, segments=segments))
    levels, counts = np.unique(q.numpy().astype(int), return_counts=True)
    panel.bar(levels, counts, color="#0072B2")
    panel.set_title(f"gamma {gamma}" + (f", {segments} segments" if segments > 1 else ""), fontsize=9)
    panel.set_xlabel("integer, 4 bit")
panels[0].set_ylabel("weights");

# %% [markdown]
# ## What the chip stores
#
# The paper's grid has no zero: odd integers, which take one bit more to store than they have levels for, and at 8 bits do not fit at all.
# `mid_tread`, with its zero, stores in exactly the bits that were asked for.

# %%
for grid in ("mid_tread", "mid_rise"):
    for bits in (2, 4, 8):
        quantiser = Quantiser(bits, grid)
        q, _ = integers(weight, quantiser)
        fits = quantiser.stored_bits <= 8
        assert not fits or stored_bits(q.numpy().astype(np.int32)) == quantiser.stored_bits  # counted as the file's reader does
        print(f"{grid}, {bits} bit: integers {int(q.min())}..{int(q.max())} need {quantiser.stored_bits} bits" + ("" if fits else ": refused"))

# %% [markdown]
# ## Six criteria on the same channels
#
# Each gives every channel a score. Which channels would go, half of them, and how many of those `svs` would cut, too? `stability` is the rank
# correlation between the scores from two halves of the images: a criterion that changes its mind between batches is a coin.

# %%
set_quantised(model, True)
kept = {}
for criterion in CRITERIA:
    scores = prune.score(model, digits, coding, samples=256, eps=1e-6, seed=0, criterion=criterion)
    kept[criterion] = prune.choose(scores, prune.keep_counts(scores, 0.5, "layer"))
    same = np.mean([np.isin(kept[criterion][i], kept["svs"][i]).mean() for i in scores])
    stability = min(s.stability for s in scores.values())
    seconds = sum(s.seconds for s in scores.values())
    print(f"{criterion:7} keeps {same:4.0%} of what svs keeps   stability {stability:5.2f}   {1000 * seconds:6.1f} ms")

# %% [markdown]
# An agreement of a half is what chance gives. The ranks of small maps tie: a 4x4 map has five possible ranks. Then the tie-break decides,
# by default the nuclear norm.

# %%
scores = prune.score(model, digits, coding, samples=256, eps=1e-6, seed=0)
for i, s in scores.items():
    print(f"block {i}: {len(s.value)} channels, {len(np.unique(s.value.round(9)))} different mean ranks, {s.value.min():.2f} to {s.value.max():.2f}")

# %% [markdown]
# ## What a width costs
#
# Loihi 2 stores the channels of a convolution in groups of powers of two, so a narrower layer can be the dearer one. The pruner can be told
# (`prune.widths = "chip"`), or be given a budget of words or cores instead of a share (`prune.budget_words`, `prune.budget_cores`).

# %%
chip = mapping.load_chip("loihi2")
layer = mapping.conv_layer((64, 14, 14), (64, 14, 14), (3, 3), bits=4, padding=(1, 1))
widths = np.arange(16, 65)
words = [mapping.width_cost(layer, chip, int(width)).words for width in widths]
good = [width for width in mapping.good_widths(layer, chip) if width >= 16]
figure, panel = plt.subplots(figsize=(7, 2.4), layout="constrained")
panel.plot(widths, words, color="#0072B2", linewidth=1)
panel.plot(good, [words[width - 16] for width in good], "o", color="#D55E00", markersize=4, label="good widths: every wider one costs more")
panel.set(xlabel="channels of a 3x3 convolution of 64 channels, 4 bit", ylabel="synapse words", ylim=(0, None))
panel.legend(frameon=False, fontsize=8);

# %% [markdown]
# ## An ablation
#
# A plan is a base experiment and some axes; every combination is trained with every seed, phases that runs share are trained once, and each
# setting is compared with its baseline by the differences of equal seeds. This one is far too small to show much, and says so: its
# intervals are wide. `qpsnn ablate PLAN.toml` does the same with progress, on several processes, and goes on where it was stopped.

# %%
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "plan.toml"
path.write_text("""
name = "notebook"
base = "digits"
seeds = [0, 1, 2]
[set]
data.train_images = 400
train.epochs = 6
train.quantised_epochs = 2
train.finetune_epochs = 2
train.frozen_epochs = 1
network.0.channels = 8
network.1.channels = 12
network.2.channels = 16
quantise.bits = 2
[studies.digits]
question = "Rescaling and SVS at 2 bit, half of the channels?"
baseline = { scale = "vanilla", criterion = "random" }
[studies.digits.axes]
scale.vanilla = { quantise.gamma = "none" }
scale.rescaw = { quantise.gamma = "mean_abs" }
criterion.random = { prune.criterion = "random" }
criterion.svs = { prune.criterion = "svs" }
""")
report = ablate(load_plan(path), Path(folder.name) / "runs", say=lambda event: None)
(study,) = report["studies"]
for row in study["differences"]:
    print(f"{row['setting']:7} - {row['baseline']:8} {place_text(row):24} {difference_text(row)}   {row['verdict']}")
folder.cleanup()

# %%
accuracy_figure(study, report["n_test"])

# %% [markdown]
# ## The recorded ablation on Fashion-MNIST
#
# `results/ablation-fashion-mnist` has the same of a whole plan, some hours of two cores, on the whole test set; docs/method.md says what
# follows from it. Bold rows are means over all combinations of the other axes; an empty circle is a difference that was not shown.

# %%
root = Path(qpsnn_lava.__file__).parents[1]  # of the repository, where `make setup` has installed it from
recorded = json.loads((root / "results" / "ablation-fashion-mnist" / "report.json").read_text())
studies = {study["name"]: study for study in recorded["studies"]}
print(f"{recorded['done']} of {recorded['runs']} runs, n = {recorded['n_test']:,}; made by: {recorded['command']}")
for study in studies.values():
    print(f"\n{study['question']}")
    for row in study["differences"]:
        if not row["at"] and row["n"]:
            print(f"  {row['setting']:12} - {row['baseline']:10} {difference_text(row):24} {row['verdict']}")

# %%
accuracy_figure(studies["grid"], recorded["n_test"])

# %%
difference_figure(studies["grid"])
