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
# # From a netx file to cores
#
# What can be learnt of a network that somebody else trained, from its file alone: what is in it, what it computes, and how many cores it
# takes. The file is Intel's PilotNet LIF, which steers a car from camera images and ships inside the lava-dl wheel together with
# recordings of its spikes. Nothing is trained here, and neither torch nor Lava is imported: a base install is enough, beside lava-dl's
# files.
#
# It runs in well under a minute on two cores.

# %%
import tempfile
from importlib import metadata
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import mapping
from netx_export import engine, hdf5
from netx_export.inspect import inspect_file
from netx_export.simulate import Reset
from qpsnn_lava import page, plots

FILES = {file.name: Path(str(file.locate())) for file in metadata.files("lava-dl") if "gts/pilotnet_lif/" in file.as_posix()}

# %% [markdown]
# ## What is in the file
#
# Reading checks everything before it allocates anything. A network shows itself as a table.

# %%
network = hdf5.read(FILES["network.net"])
network

# %% [markdown]
# `inspect_file` adds what the file does not say aloud: how far currents and voltages can go, whatever the input, and what the stock reader
# ignores in silence. On the command line it is `qpsnn inspect`.

# %%
found = inspect_file(FILES["network.net"], steps=16)
for layer in found["layers"]:
    if layer["weight"]:
        low, high = layer["weight"]
        print(f"{layer['name']:8} {'x'.join(map(str, layer['shape'])):>10} {layer['weights']:7,} weights {low}..{high} in {layer['stored_bits']} bits")
print({key: value for key, value in found.items() if key != "layers" and isinstance(value, int | str)})

# %%
plots.weights_figure(network)

# %% [markdown]
# ## What it computes
#
# The input layer has neurons of its own, which the host drives through their bias: here with the image that the wheel's recordings were
# made of, for 16 steps. The simulator computes the chip's integers.

# %%


def recorded(name: str) -> np.ndarray:
    """A recording as (C, H, W, time): the wheel has W, H, C."""
    values = np.load(FILES[name]).astype(np.int64)
    return np.moveaxis(values, [0, 1, 2], [2, 1, 0])


image = recorded("image.npy")
frames = np.repeat(image[None, ..., None], 16, axis=-1)
run = engine.simulate_fast(network, frames, reset=Reset(16))
rates = mapping.activity_of(run.spikes)
for name, rate in rates.items():
    print(f"{name}: {100 * rate:.1f} % of its neurons fire in a step")

# %% [markdown]
# The recorded spikes of the first convolution are the same, all of them, in every step that both have.

# %%
exact, first = run.spikes[network.populations[1].name][0], recorded("conv-0.npy")[..., 1:17]
print(f"{int((exact != first).sum())} of {exact.size:,} spikes differ")
assert np.array_equal(exact, first) and exact.any()

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2), layout="constrained")
left.imshow(image.mean(0), cmap="gray", aspect="auto")
left.set(title="image, mean over colours", xticks=[], yticks=[])
right.imshow(exact.mean((0, 3)), cmap="magma", aspect="auto")
right.set(title="first convolution: spikes per neuron and step", xticks=[], yticks=[])

# %% [markdown]
# ## How many cores
#
# The mapper cuts every layer into slices that keep all limits of a core. Against `loihi2-2022`, the numbers of Intel's compiler of 2022,
# this reproduces the table that the compiler printed into lava-dl's tutorial, 74 cores. A second program that shares no code with the
# mapper counts everything again (`require` raises where it disagrees).

# %%
chip = mapping.load_chip("loihi2-2022")
placed = mapping.map_network(network, chip)
mapping.require(network, placed)
used = mapping.utilisation(network, placed)
print(used.verdict)
for row in used.layers:
    if row.cores:
        how = "tiles of " + "x".join(map(str, row.tile)) if row.tile else f"{row.neurons_per_core} neurons a core"
        print(f"{row.name}: {row.cores} cores, {how}, {row.synapse_words} words, {row.binding} {row.binding_percent:.0f} % full")

# %% [markdown]
# What binds differs: the convolutions fill the neurons of their cores, the large dense layer the synapse words.

# %%
details = mapping.describe(network, placed, rates)
shown = {**used.to_dict(), **details}
plots.use_figure(shown)

# %% [markdown]
# ## What a compiler could do that is not known to
#
# With free tiles a slice may have any width, height and number of channels; with shared cores several slices may lie on one. Both are
# *assumed* to be legal: no public compiler was seen to do it. The lower bound says how far any mapping under these limits could go.

# %%
for label, rules in (("as the compiler", {}), ("free tiles", {"free_tiles": True}), ("and shared cores", {"free_tiles": True, "share_cores": True})):
    other = mapping.utilisation(network, mapping.map_network(network, mapping.allow(chip, **rules)))
    print(f"{label}: {other.cores} cores, at least {other.lower_bound}")

# %% [markdown]
# ## Fewer bits, fewer channels
#
# What each layer would take with other weights: the cores by stored bits, and the next width that saves words.

# %%
for row in details["what_if"]:
    print(f"{row['name']}: {row['bits']} bits now; cores by bits {row['cores_by_bits']}; next width with fewer words: {row['next_width_words']} of {row['width']}")

# %% [markdown]
# ## The mesh and the traffic
#
# Every core at its place, coloured by what it uses, and the spikes that go from layer to layer in a step.

# %%
plots.mesh_figure(shown)

# %%
plots.traffic_figure(shown)

# %% [markdown]
# ## The page
#
# All of it as one HTML file that needs nothing else, which `qpsnn map FILE.net --out DIR` writes too. docs/report.md says how to read it.

# %%
made = page.of_mapping("pilotnet_lif", "notebook 03", used.to_dict(), details, plots.weight_rows(network), {})
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "report.html"
    path.write_text(page.page(made), encoding="utf-8")
    print(path.name, f"{path.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# A model of public evidence, not Intel's compiler; not run on hardware.
