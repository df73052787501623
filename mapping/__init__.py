"""Mapping a network onto Loihi cores: chips as data, cost model, tiles and splits, the mapping, its checker, its numbers."""

from __future__ import annotations

from mapping.bench import ten_layers
from mapping.board import Board, board_names, load_board
from mapping.check import check, recount, require
from mapping.chip import STATEMENT, Chip, Limit, Parameter, allow, chip_from_dict, chip_names, load_chip
from mapping.cost import Layer, Usage, lower_bound, network_lower_bound, plan_layers, slice_usage
from mapping.coupled import OBJECTIVES, Plan, choose_cuts, pareto_front
from mapping.details import (
    Compared,
    CoreUse,
    EnergyRange,
    SynapseNumbers,
    Traffic,
    WhatIf,
    compare,
    core_rows,
    describe,
    energy,
    front,
    front_rows,
    synapse_numbers,
    what_if,
)
from mapping.mapped import MappedRun, simulate_mapped
from mapping.mapper import map_layers, map_network, mapping_of
from mapping.mapping import Core, Mapping, Slice
from mapping.partition import Boxes, Cut, cut_layer, partition
from mapping.placement import Placement, Routing, place
from mapping.traffic import ASSUMED_RATE, activity_of, slice_traffic
from mapping.utilisation import LayerUse, Utilisation, core_usages, partial_utilisation, utilisation
from mapping.widths import (
    WidthChoice,
    WidthCost,
    at_bits,
    at_widths,
    choose_widths,
    conv_layer,
    costs_by_width,
    dense_layer,
    good_widths,
    next_lower_width_that_saves,
    width_cost,
)

__all__ = [
    "ASSUMED_RATE",
    "OBJECTIVES",
    "STATEMENT",
    "Board",
    "Boxes",
    "Chip",
    "Compared",
    "Core",
    "CoreUse",
    "Cut",
    "EnergyRange",
    "Layer",
    "LayerUse",
    "Limit",
    "MappedRun",
    "Mapping",
    "Parameter",
    "Placement",
    "Plan",
    "Routing",
    "Slice",
    "SynapseNumbers",
    "Traffic",
    "Usage",
    "Utilisation",
    "WhatIf",
    "WidthChoice",
    "WidthCost",
    "activity_of",
    "allow",
    "at_bits",
    "at_widths",
    "board_names",
    "check",
    "chip_from_dict",
    "chip_names",
    "choose_cuts",
    "choose_widths",
    "compare",
    "conv_layer",
    "core_rows",
    "core_usages",
    "costs_by_width",
    "cut_layer",
    "dense_layer",
    "describe",
    "energy",
    "front",
    "front_rows",
    "good_widths",
    "load_board",
    "load_chip",
    "lower_bound",
    "map_layers",
    "map_network",
    "mapping_of",
    "network_lower_bound",
    "next_lower_width_that_saves",
    "pareto_front",
    "partial_utilisation",
    "partition",
    "place",
    "plan_layers",
    "recount",
    "require",
    "simulate_mapped",
    "slice_traffic",
    "slice_usage",
    "synapse_numbers",
    "ten_layers",
    "utilisation",
    "what_if",
    "width_cost",
]
