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
# # Reading the report
#
# A small run from beginning to end, and what each number of its report means. `qpsnn run` does the same into a folder that stays;
# `report.json` has every number, `report.md` and `report.html` show them (docs/report.md goes through the page).
#
# It runs in about a minute on two cores and needs the training extras (see docs/install.md).

# %%
import tempfile
from pathlib import Path

from qpsnn_lava import pipeline, plots
from qpsnn_lava.config import load_experiment
from qpsnn_lava.notebook import Shown
from qpsnn_lava.report import spikes

experiment = load_experiment(
    "digits",
    [
        "train.epochs=6", "train.quantised_epochs=3", "train.finetune_epochs=4", "train.frozen_epochs=1", "lava.samples=4",
        "network.0.channels=16", "network.1.channels=24", "network.2.channels=32",
    ],
)
folder = tempfile.TemporaryDirectory()
files = Path(folder.name) / "digits"
report = pipeline.run(experiment, files, say=lambda line: None, command="notebook 05")
print(*sorted(path.name for path in files.iterdir()), sep="\n")

# %% [markdown]
# ## At a glance
#
# The last line of a cell shows a report: the summary that the command line prints, then a row for each layer.

# %%
Shown(report)

# %% [markdown]
# ## Accuracy: four numbers, one of which counts
#
# - `float`: trained without any quantisation. The starting point.
# - `quantised`: trained on with the chip's integers in its forward pass, all channels.
# - `pruned`: right after the channels were cut, before fine-tuning. It is meant to be low.
# - `integer`: what is deployed, on the whole test set, by the exact simulation. **This one counts.**
# - `lava`: the first few test images on Lava's fixed-point models. It shows that they agree, not how good the network is: `n` is small.
#
# Each has `n` and a 95 % interval (Wilson's). On 450 images it is some 2 points wide: smaller differences between two runs say nothing.

# %%
for stage, one in report["accuracy"].items():
    low, high = one["interval"]
    print(f"{stage:10} {100 * one['value']:6.2f} %   n = {one['n']:4}   95 %: {100 * low:.1f}..{100 * high:.1f}")
print(f"integer test accuracy: {100 * report['accuracy']['integer']['value']:.1f} %")

# %% [markdown]
# ## Exactness
#
# Spikes of every layer of SLAYER's forward pass against the simulator, on the whole test set, and output spikes and voltages of Lava
# against it. Both mismatches must be 0; a run in which they are not ends with exit code 3. Agreement between silent networks would say
# nothing, so look at the firing rates too (the read-out sums and does not fire): a healthy layer fires at 2 to 80 %.

# %%
agreement = report["agreement"]
print(f"{agreement['spike_mismatches']} of {agreement['spikes_compared']:,} spikes differ, {agreement['voltage_mismatches']} voltages")
assert agreement["spike_mismatches"] == agreement["voltage_mismatches"] == 0
for row in report["layers"]:
    if spikes(row):
        print(f"{row['name']}: fires at {100 * row['firing_rate']:.1f} %")

# %%
plots.raster_figure(report)

# %% [markdown]
# ## Size and operations
#
# - `float` size: the unpruned network at 32 bits a parameter. `deployed`: the stored bits of every weight of the pruned one, 13 bits a bias;
#   thresholds, decays and headers are not counted.
# - Synaptic operations: one for each spike and non-zero weight that it meets, counted in the exact run, per inference. It is the
#   quantity that energy estimates rest on, not an energy.

# %%
size, before = report["size_mb"], report["unpruned"]
print(f"{1000 * size['float']:.0f} kB float -> {1000 * size['deployed']:.1f} kB deployed")
print(f"{before['synaptic_ops']:,.0f} -> {report['synaptic_ops']:,.0f} synaptic operations per inference")

# %% [markdown]
# ## Layers
#
# Channels before and after pruning, the bits that were asked for and the bits that the chip stores, and the memory words of all the
# layer's synapses. A layer takes at least one core, so in a network as small as this one pruning saves words, not cores.

# %%
for row in report["layers"]:
    print(f"{row['name']}: {row['channels_before']} -> {row['channels_after']} channels, {row['stored_bits']} bits, {row['synapse_words']} words, {row['cores']} cores")

# %% [markdown]
# ## Which channels went
#
# The SVS score of a channel is the mean rank of its maps of spike rates. The cut lies where the bars change colour. Bars of equal height
# at the cut mean that the tie-break chose, not the score.

# %%
plots.scores_figure({row["name"]: row for row in report["scores"]["layers"]})

# %% [markdown]
# ## Cores
#
# `cores` is what the mapper needs, `lower_bound` what any mapping needs at least, and `binding` the resource that is fullest on the fullest
# core: to save cores, save that one. `percent` is used of the limit.

# %%
mapped = report["mapping"]
print(mapped["verdict"])
for row in mapped["layers"]:
    if row["cores"]:
        print(f"{row['name']}: {row['cores']} of at least {row['lower_bound']} cores, {row['binding']} {row['binding_percent']:.0f} % full")

# %%
plots.use_figure(mapped)

# %% [markdown]
# ## What the numbers rest on
#
# Accuracy is measured, operations are counted, sizes are computed; cores, words and utilisation are modelled. The evidence table names
# the source of each number of the chip, with a tag: published, source, inferred, assumed. Its first line stands in every report.

# %%
print(mapped["evidence"][0])
tags = [line.split("[", 1)[1].split("]", 1)[0] for line in mapped["evidence"][1:] if "[" in line]
print({tag: tags.count(tag) for tag in sorted(set(tags))})
assert mapped["evidence"][0] == "a model of public evidence, not Intel's compiler; not run on hardware"

# %% [markdown]
# ## Where it comes from
#
# Enough to make it again: the command, the seed, the versions, the data set with its licence. `config.toml` in the folder is the
# experiment with every default filled in.

# %%
for key in ("command", "seed", "versions", "dataset"):
    print(key, report[key])

# %%
folder.cleanup()
