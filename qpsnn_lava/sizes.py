"""How large a network is, in megabytes of 1e6 bytes: as it is deployed, and as the paper counts."""

from __future__ import annotations

from collections.abc import Mapping

from netx_export.integers import stored_bits
from netx_export.network import Integrator, Network


def deployed_mb(network: Network) -> float:
    """Megabytes that the deployed parameters need: every stored weight in its stored bits, 13 bits a bias mantissa.

    Convolutions count their kernels once.  Thresholds and decays (one set a layer) are not counted.
    """
    bits = sum(p.synapse.weight.size * stored_bits(p.synapse.weight) for p in network.projections)
    bits += sum(13 * population.bias.size for population in network.populations if population.bias is not None)
    return bits / 8e6


def paper_mb(network: Network, bits: Mapping[str, int]) -> float:
    """Megabytes as QP-SNN (Wei et al., ICLR 2025) counts them: what of the network would be stored had the paper trained it.

    ``(sum_l b_l |W_l| + 32 (2 sum_l C_l + classes)) / 8e6`` over the layers l with trained weights: b_l is 32 for the first
    and the last layer, which the paper leaves in full precision, and the asked bits for the others; C_l are the channels of a layer
    with BatchNorm (gain and shift); an integrator read-out has none, but a bias for each class.  Pooling counts nothing.

    The sizes that the paper prints for pruned VGG-16 and VGGSNN come out to its two decimals.

    Args:
        network: frozen.
        bits: asked weight bits 2..8 (32: not quantised), by the name of the population, of each layer with trained weights.
    """
    trained = [p for p in network.projections if p.target in bits]
    total = 0
    for i, projection in enumerate(trained):
        population = network[projection.target]
        channels = population.shape[0]
        total += projection.synapse.weight.size * (32 if i in (0, len(trained) - 1) else bits[projection.target])
        total += 32 * (channels if isinstance(population.neuron, Integrator) else 2 * channels)
    return total / 8e6
