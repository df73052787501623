"""From a network to a mapping: plan the layers, cut them, put every slice on a core of its own."""

from __future__ import annotations

from mapping.chip import Chip
from mapping.cost import plan_layers
from mapping.mapping import Core, Mapping, Slice
from mapping.partition import partition
from netx_export.network import Network


def map_network(network: Network, chip: Chip) -> Mapping:
    """Map a network onto as many cores as it takes, one layer a core, layers and slices in their order.

    The n-th core in use is core ``n mod cores_per_chip`` of chip ``n div cores_per_chip``; how many chips there are is not
    asked here (:func:`mapping.utilisation.utilisation` says whether a board is large enough).  An input without neurons comes
    from the host and takes no core.

    Raises:
        CapacityError: one neuron of a layer needs more of a resource than a core has; names layer, resource, need, limit
            and a way out.
    """
    layers = plan_layers(network)
    cuts = partition(layers, chip)
    slices = (Slice(layer.name, ranges) for layer, cut in zip(layers, cuts, strict=True) for ranges in cut.slices())
    return Mapping(chip, tuple(Core(*divmod(n, chip.cores_per_chip), (piece,)) for n, piece in enumerate(slices)))
