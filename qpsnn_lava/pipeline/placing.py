"""The map stage: networks onto the experiment's chip."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import mapping
from netx_export import hdf5
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
    """Maps both networks onto the chip, the final one with every detail, as busy as the simulation was; keeps mapping.json."""
    if files.mapping.exists():
        return
    start = time.perf_counter()
    chip = mapping.load_chip(experiment.map.chip)
    firing = checkpoint.load_json(files.checks)["firing"]
    networks = {"network": hdf5.read(files.network), "unpruned": hdf5.read(files.unpruned)}
    tables: dict[str, Any] = {}
    for name, network in networks.items():
        placed = mapping.place(network, mapping.map_network(network, chip), firing, experiment.seed).mapping
        mapping.require(network, placed)
        tables[name] = {"utilisation": mapping.utilisation(network, placed).to_dict(), "mapping": placed.to_dict()}
    final = mapping.Mapping.from_dict(tables["network"]["mapping"])
    tables["details"] = _details(networks["network"], networks["unpruned"], final, chip, firing)
    checkpoint.save_json(files.mapping, {**tables, "seconds": time.perf_counter() - start})
    used, cores = tables["network"]["utilisation"], tables["unpruned"]["utilisation"]["cores"]
    say(
        Event(
            "map",
            f"{chip.name}: {used['cores']} cores (unpruned {cores}), lower bound {used['lower_bound']}",
            final=True,
        )
    )


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
