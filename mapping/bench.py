"""How fast mapping is, on a network made for it: what ``qpsnn bench map`` prints."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from mapping.chip import Chip, allow, load_chip
from mapping.cost import network_lower_bound, plan_layers
from mapping.mapper import map_network
from mapping.placement import place
from netx_export.hdf5 import read
from netx_export.network import Conv, Lif, Network, Population, Projection

LIF = Lif(4096, 1024, 25)


def ten_layers(size: int = 448, layers: int = 10) -> Network:
    """An input of ``size`` x ``size`` x 3 neurons and convolutions of 3x3 with weights of 4 bits.

    Every third of the first ten has a stride of 2.  With the defaults it takes more than 500 cores.
    """
    rng = np.random.default_rng(0)
    channels = (8, 16, 24, 24, 32, 48, 48, 64, 64, 64)
    populations = [Population("input", (3, size, size), LIF)]
    projections = []
    for number in range(layers):
        source = populations[-1]
        stride = 2 if number < 10 and number % 3 == 0 else 1
        weight = rng.integers(-8, 8, (channels[number % len(channels)], source.shape[0], 3, 3), dtype=np.int32)
        weight[0, 0, 0, 0] = -8
        weight[0, 0, 0, 1] = 7
        conv = Conv(weight, stride=(stride, stride), padding=(1, 1))
        populations.append(Population(f"conv{number + 1}", conv.output_shape(source.shape), LIF))
        projections.append(Projection(source.name, populations[-1].name, conv))
    return Network(tuple(populations), tuple(projections))


def pilotnet() -> Network | None:
    """Intel's PilotNet LIF, of the lava-dl wheel; None where it is not installed or has no such file."""
    try:
        files = metadata.files("lava-dl") or []
    except metadata.PackageNotFoundError:
        return None
    found = [file for file in files if str(file).endswith("gts/pilotnet_lif/network.net")]
    path = Path(str(found[0].locate())) if found else None
    return read(path) if path is not None and path.exists() else None


@dataclass(frozen=True)
class Way:
    """One way to map a network, and what it came to.

    Args:
        what: the network and the rules.
        layers: of the network, its input aside.
        cores, lower_bound: of the mapping.
        gap_percent: cores above the bound, of it.
        seconds: of wall clock, for the first and only time.
    """

    what: str
    layers: int
    cores: int
    lower_bound: int
    gap_percent: float
    seconds: float


@dataclass(frozen=True)
class Seating:
    """What :func:`mapping.placement.place` did: cores, seconds, hops a step with the layers in order, and as placed."""

    cores: int
    seconds: float
    hops_before: float
    hops: float


@dataclass(frozen=True)
class Bench:
    """Figures of :func:`bench`: each way to map the network, more and more layers, PilotNet (None: not there), placement."""

    chip: str
    ways: tuple[Way, ...]
    growth: tuple[Way, ...]
    pilotnet: Way | None
    placement: Seating

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def bench(chip: Chip | None = None, *, size: int = 448, seated: int = 256, layers: tuple[int, ...] = (10, 20, 40)) -> Bench:
    """How long mapping takes and how good it is: on :func:`ten_layers`, on more layers, on PilotNet; and placing some 600 cores.

    Args:
        chip: None: ``loihi2``.
        size: of the input image, pixels.
        seated: of the input image of the network that is placed.
        layers: how many convolutions the growing networks have.
    """
    chip = load_chip("loihi2") if chip is None else chip
    network = ten_layers(size)
    ways = tuple(
        _way(what, network, allow(chip, free_tiles=free, share_cores=share))
        for what, free, share in (
            ("default", False, False),
            ("free tiles", True, False),
            ("free tiles, shared cores", True, True),
        )
    )
    growth = tuple(_way(f"{count} layers", ten_layers(size, count), chip) for count in layers)
    found = pilotnet()
    placed = ten_layers(seated)
    mapping = map_network(placed, chip)
    start = time.perf_counter()
    seats = place(placed, mapping)
    seconds = time.perf_counter() - start
    return Bench(
        chip.profile,
        ways,
        growth,
        None if found is None else _way("PilotNet LIF", found, chip),
        Seating(len(mapping.cores), seconds, seats.snake.hops, seats.routing.hops),
    )


def _way(what: str, network: Network, chip: Chip) -> Way:
    start = time.perf_counter()
    cores = len(map_network(network, chip).cores)
    seconds = time.perf_counter() - start
    bound = network_lower_bound(plan_layers(network), chip)
    return Way(what, len(network.populations) - 1, cores, bound, 100 * (cores / bound - 1), seconds)
