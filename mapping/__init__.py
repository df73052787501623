"""Mapping a network onto Loihi cores: chips as data, cost model, tiles and splits, the mapping, its checker, its numbers."""

from __future__ import annotations

from mapping.check import check, recount, require
from mapping.chip import STATEMENT, Chip, Limit, Parameter, chip_from_dict, chip_names, load_chip
from mapping.cost import Layer, Usage, lower_bound, plan_layers, slice_usage
from mapping.mapper import map_network
from mapping.mapping import Core, Mapping, Slice
from mapping.partition import Cut, cut_layer, partition
from mapping.utilisation import LayerUse, Utilisation, utilisation

__all__ = [
    "STATEMENT",
    "Chip",
    "Core",
    "Cut",
    "Layer",
    "LayerUse",
    "Limit",
    "Mapping",
    "Parameter",
    "Slice",
    "Usage",
    "Utilisation",
    "check",
    "chip_from_dict",
    "chip_names",
    "cut_layer",
    "load_chip",
    "lower_bound",
    "map_network",
    "partition",
    "plan_layers",
    "recount",
    "require",
    "slice_usage",
    "utilisation",
]
