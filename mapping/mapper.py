"""From a network to a mapping: plan the layers, cut them, put the slices on cores."""

from __future__ import annotations

from collections.abc import Sequence

from mapping.chip import Chip, allow
from mapping.cost import Layer, Usage, fan_out, plan_layers, traffic_usage
from mapping.coupled import Plan, cuts_of
from mapping.mapping import Core, Mapping
from mapping.packing import pack, slices_of
from mapping.partition import Boxes, Cut
from mapping.traffic import Activity, rates
from mapping.utilisation import partial_utilisation
from netx_export.errors import CapacityError
from netx_export.network import Network


def map_network(
    network: Network,
    chip: Chip,
    *,
    free_tiles: bool = False,
    share_cores: bool = False,
    sparse: bool = False,
    objective: str = "cores",
    activity: Activity | None = None,
) -> Mapping:
    """Map a network onto as few cores as its profile's rules allow, layers and slices in their order.

    The n-th core in use is core ``n mod cores_per_chip`` of chip ``n div cores_per_chip``; how many chips there are is not
    asked here (:func:`mapping.utilisation.utilisation` says whether a board is large enough).  An input without neurons comes
    from the host and takes no core.

    Args:
        network: any.
        chip: its limits and rules.
        free_tiles, share_cores, sparse: rules to relax, see :func:`mapping.chip.allow`; the mapping's chip says so.
        objective: "cores", "traffic" or "balance", see :func:`mapping.coupled.choose_cuts`.
        activity: population -> spikes per neuron and step; None: a rate is assumed (:func:`mapping.traffic.rates`).

    Raises:
        CapacityError: one neuron of a layer needs more of a resource than a core has; names layer, resource, need, limit
            and a way out; its ``partial`` holds what is known of the other layers.
        ConfigError: an unknown objective, or an activity that is none.
    """
    chip = allow(chip, free_tiles=free_tiles, share_cores=share_cores, sparse=sparse)
    rate = rates(network, activity)
    try:
        return map_layers(plan_layers(network), chip, rate, objective)
    except CapacityError as error:
        error.partial = partial_utilisation(network, chip, error)
        raise


def mapping_of(network: Network, chip: Chip, plan: Plan) -> Mapping:
    """The mapping of a plan, such as one of :func:`mapping.coupled.pareto_front`, one slice a core.

    Args:
        network: that was planned.
        chip: that it was planned for, with its rules.
        plan: the cuts of its layers.
    """
    cores = slices_of(plan_layers(network), plan.cuts)
    return Mapping(chip, tuple(Core(*divmod(n, chip.cores_per_chip), pieces) for n, pieces in enumerate(cores)))


def map_layers(layers: Sequence[Layer], chip: Chip, rate: Activity, objective: str = "cores") -> Mapping:
    """The mapping of layers, of which shapes and bits are known and weights need not be; see :func:`map_network`.

    Args:
        layers: as of :func:`mapping.cost.plan_layers`.
        chip: limits and rules.
        rate: population -> spikes per neuron and step, of the layers and their sources.
        objective: "cores", "traffic" or "balance".

    Raises:
        CapacityError, ConfigError: as of :func:`map_network`.
    """
    cuts = cuts_of(layers, chip, rate, objective)
    if int(chip.rule("layers_per_core")) > 1:
        cores = pack(layers, chip, cuts, _out_axons(layers, cuts, chip))
    else:
        cores = slices_of(layers, cuts)
    return Mapping(chip, tuple(Core(*divmod(n, chip.cores_per_chip), pieces) for n, pieces in enumerate(cores)))


def _out_axons(layers: Sequence[Layer], cuts: tuple[Cut | Boxes, ...], chip: Chip) -> list[list[Usage]] | None:
    """Each slice's out-axon slots as if every target slice had its own core (an upper bound); None without such a limit."""
    if "axon_out" not in chip.core_limits:
        return None
    boxes = {layer.name: list(cut.slices()) for layer, cut in zip(layers, cuts, strict=True)}
    chips = -(-sum(cut.cores for cut in cuts) // chip.cores_per_chip)
    out = []
    for layer in layers:
        fans = [
            fan_out(layer.shape, synapses, boxes[target.name])
            for target in layers
            for synapses in target.inputs
            if synapses.source == layer.name
        ]
        out.append([traffic_usage(ranges, fans, chip, chips) for ranges in boxes[layer.name]])
    return out
