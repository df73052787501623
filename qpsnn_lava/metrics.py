"""NeuroBench's metrics of an integer network, by its names (Yik et al., Nature Communications 2025; neurobench 2.3).

Static ones are counted from the network, workload ones from a run over a data set, reduced to counts by
:func:`netx_export.engine.summarise`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from netx_export.engine import Summary
from netx_export.network import Conv, Dense, Integrator, Network, Synapse
from netx_export.simulate import fan_out
from qpsnn_lava.sizes import deployed_mb


@dataclass(frozen=True)
class Metrics:
    """NeuroBench's numbers of one network.

    Args:
        footprint: bytes of the deployed parameters, weights in their stored bits (NeuroBench counts whole tensors).
        connection_sparsity: share of the weights that are zero, of kernels and matrices as they are stored.
        activation_sparsity: share of the (neuron, step) of all spiking populations but the input in which nothing is sent.
        effective_macs, effective_acs: synaptic operations a sample: arriving non-zero values times the non-zero weights that they
            meet, multiply-accumulates for graded input, else accumulates.
        dense: the same a sample, were all inputs and weights non-zero.
    """

    footprint: float
    connection_sparsity: float
    activation_sparsity: float
    effective_macs: float
    effective_acs: float
    dense: float

    def to_dict(self) -> dict[str, Any]:
        """Keys as NeuroBench's results have them."""
        return {
            "footprint": self.footprint,
            "connection_sparsity": self.connection_sparsity,
            "activation_sparsity": self.activation_sparsity,
            "synaptic_operations": {
                "Effective_MACs": self.effective_macs,
                "Effective_ACs": self.effective_acs,
                "Dense": self.dense,
            },
        }


def metrics(network: Network, summary: Summary) -> Metrics:
    """NeuroBench's metrics of a network and what a run of it over a data set counted.

    With z zero weights of n, s spikes of N neurons in T steps and M samples (the populations that spike, without the input), and the
    operations of each projection as :func:`netx_export.simulate.synaptic_operations` counts them::

        connection_sparsity = z / n      activation_sparsity = 1 - s / (N T M)      effective = operations / M

    An integrator read-out sends nothing and is no activation.  A projection multiplies where its source is the input and that is
    graded (``input_bits`` > 0).

    Args:
        network: frozen.
        summary: of a run of this network.
    """
    weights = [projection.synapse.weight for projection in network.projections]
    zeros = sum(int(weight.size - np.count_nonzero(weight)) for weight in weights)
    firing = [p for p in network.populations[1:] if not isinstance(p.neuron, Integrator)]
    slots = sum(p.size for p in firing) * summary.steps * summary.samples
    spikes = sum(summary.spikes[p.name] for p in firing)
    macs = acs = dense = 0
    source = network.populations[0].name
    for projection in network.projections:
        operations = summary.operations[f"{projection.source} -> {projection.target}"]
        if network.input_bits and projection.source == source:
            macs += operations
        else:
            acs += operations
        dense += int(fan_out(_of_ones(projection.synapse), network[projection.source].shape).sum()) * summary.steps
    return Metrics(
        deployed_mb(network) * 1e6,
        zeros / sum(weight.size for weight in weights),
        1 - spikes / slots if slots else 0.0,
        macs / summary.samples,
        acs / summary.samples,
        float(dense),
    )


def _of_ones(synapse: Synapse) -> Synapse:
    """The same connections, none of them zero."""
    ones = np.ones_like(synapse.weight)
    if isinstance(synapse, Dense):
        return Dense(ones)
    return Conv(ones, synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
