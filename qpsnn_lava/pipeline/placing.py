"""The map stage: networks onto the experiment's chip."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import mapping
from netx_export import hdf5
from netx_export.errors import CapacityError
from netx_export.network import Network
from qpsnn_lava import checkpoint
from qpsnn_lava.config import Experiment
from qpsnn_lava.pipeline.folder import Event, RunFolder, Say


def utilisation(experiment: Experiment, network: Network) -> mapping.Utilisation:
    """What a network takes of the chip of [map].

    Raises:
        CapacityError: it has no place there.
    """
    placed = mapping.map_network(network, mapping.load_chip(experiment.map.chip))
    mapping.require(network, placed)
    return mapping.utilisation(network, placed)


def place(experiment: Experiment, files: RunFolder, say: Say) -> None:
    """Maps both networks onto the chip, the final one with every detail, as busy as the simulation was; keeps mapping.json.

    The unpruned one need not fit: that it does not is what pruning was for.

    Raises:
        CapacityError: the final network has no place there.
    """
    if files.mapping.exists():
        return
    start = time.perf_counter()
    chip = mapping.load_chip(experiment.map.chip)
    firing = checkpoint.load_json(files.checks)["firing"]
    network, unpruned = hdf5.read(files.network), hdf5.read(files.unpruned)

    def placed(one: Network) -> mapping.Mapping:
        found = mapping.place(one, mapping.map_network(one, chip), firing, experiment.seed).mapping
        mapping.require(one, found)
        return found

    final = placed(network)
    tables = {"network": _table(network, final), "details": _details(network, unpruned, final, chip, firing)}
    try:
        tables["unpruned"] = _table(unpruned, placed(unpruned))
        before = f"unpruned {tables['unpruned']['utilisation']['cores']}"
    except CapacityError as error:
        tables["unpruned"] = {"error": str(error)}
        before = "unpruned it does not fit"
    checkpoint.save_json(files.mapping, {**tables, "seconds": time.perf_counter() - start})
    used = tables["network"]["utilisation"]
    say(Event("map", f"{chip.name}: {used['cores']} cores ({before}), lower bound {used['lower_bound']}", final=True))


def _table(network: Network, placed: mapping.Mapping) -> dict[str, Any]:
    return {"utilisation": mapping.utilisation(network, placed).to_dict(), "mapping": placed.to_dict()}


def _details(
    network: Network, unpruned: Network, placed: mapping.Mapping, chip: mapping.Chip, firing: Mapping[str, float]
) -> dict[str, Any]:
    """Every core of the final network, its Pareto front, and side by side what pruning and quantising save."""
    before = mapping.plan_layers(unpruned)
    variants = {
        "unpruned, at 8 bits": [mapping.at_bits(layer, 8) for layer in before],
        "unpruned, quantised": before,
        "pruned": mapping.plan_layers(network),
    }
    return {
        **mapping.describe(network, placed, firing, unpruned),
        "pareto": mapping.front_rows(mapping.front(network, chip, firing)),
        "compared": [asdict(row) for row in mapping.compare(variants, chip)],
    }
