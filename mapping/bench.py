"""How fast mapping is, on a network made for it: what ``qpsnn bench map`` prints."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from mapping.chip import Chip, load_chip
from mapping.cost import network_lower_bound, plan_layers
from mapping.mapper import map_network
from netx_export.network import Conv, Lif, Network, Population, Projection

LIF = Lif(4096, 1024, 25)


def ten_layers(size: int = 448, layers: int = 10) -> Network:
    """An input of ``size`` x ``size`` x 3 neurons and convolutions of 3x3, every third with a stride of 2, weights of 4 bits.

    With the defaults it takes more than 500 cores.
    """
    rng = np.random.default_rng(0)
    channels = (8, 16, 24, 24, 32, 48, 48, 64, 64, 64)
    populations = [Population("input", (3, size, size), LIF)]
    projections = []
    for number in range(layers):
        source = populations[-1]
        stride = 2 if number % 3 == 0 else 1
        weight = rng.integers(-8, 8, (channels[number % len(channels)], source.shape[0], 3, 3), dtype=np.int32)
        weight[0, 0, 0, 0] = -8
        weight[0, 0, 0, 1] = 7
        conv = Conv(weight, stride=(stride, stride), padding=(1, 1))
        populations.append(Population(f"conv{number + 1}", conv.output_shape(source.shape), LIF))
        projections.append(Projection(source.name, populations[-1].name, conv))
    return Network(tuple(populations), tuple(projections))


def bench(network: Network | None = None, chip: Chip | None = None) -> list[dict[str, Any]]:
    """Seconds and cores of each way to map a network.

    Args:
        network: None: :func:`ten_layers`.
        chip: None: ``loihi2``.

    Returns:
        one table per way: ``what``, ``cores``, ``lower_bound``, ``gap_percent``, ``seconds``.
    """
    network = ten_layers() if network is None else network
    chip = load_chip("loihi2") if chip is None else chip
    rows = []
    ways = (("default", False, False), ("free tiles", True, False), ("free tiles, shared cores", True, True))
    for what, free, share in ways:
        start = time.perf_counter()
        mapping = map_network(network, chip, free_tiles=free, share_cores=share)
        seconds = time.perf_counter() - start
        bound = network_lower_bound(plan_layers(network), mapping.chip)
        cores = len(mapping.cores)
        gap = 100 * (cores / bound - 1)
        rows.append({"what": what, "cores": cores, "lower_bound": bound, "gap_percent": gap, "seconds": seconds})
    return rows
