"""Any SLAYER model on our CUBA dynamics and convolutions: ``fuse(model)``, nothing else changes.

What SLAYER does with the parts that are put in their place stays: parameters, pre-hooks, weight and neuron norms, delays, export.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from qpsnn_lava import dynamics
from qpsnn_lava.blocks import Flatten, connect, convolve, slayer, slayer_cuba

_Neuron: Any = slayer_cuba.Neuron
_Conv: Any = slayer.synapse.Conv
_Dense: Any = slayer.synapse.Dense
_ConvBlock: Any = slayer.block.cuba.Conv
_DenseBlock: Any = slayer.block.cuba.Dense


class FusedNeuron(_Neuron):  # type: ignore[misc]
    """``slayer.neuron.cuba.Neuron`` whose current and voltage run through :mod:`qpsnn_lava.dynamics`."""

    def forward(self, input: torch.Tensor, late: int = 0) -> torch.Tensor:
        """(N, C, ..., T) sums in, spikes out; ``late`` 1: a time step later, as SLAYER's ``delay_shift`` makes them."""
        if not can_fuse(self) or input.dtype != torch.float32:
            stock: torch.Tensor = super().forward(input)
            return slayer.axon.delay(stock, 1) if late else stock
        if getattr(self, "num_neurons", None) is None:  # as SLAYER: the first input sets it
            self.shape = input.shape[1:-1]
            self.num_neurons = math.prod(input.shape[1:-1])
        current_decay, voltage_decay = int(self.cx_current_decay), int(self.cx_voltage_decay)
        current = input.movedim(-1, 1)
        if self.norm is not None:
            current = self.norm(dynamics.integrate(current, current_decay).movedim(1, -1).contiguous()).movedim(-1, 1)
            current_decay = 4096
        threshold = self.threshold + self.threshold_eps
        tau, scale = self.tau_rho * slayer_cuba.TAU_RHO_MULT, self.scale_rho * slayer_cuba.SCALE_RHO_MULT
        how = dynamics.Firing(voltage_decay, threshold, tau, scale, current_decay, late)
        spikes = dynamics.fire(current, how).movedim(1, -1)
        return spikes if self.drop is None else self.drop(spikes)


class FusedConv(_Conv):  # type: ignore[misc]
    """``slayer.synapse.Conv`` as a 2-D convolution of all time steps at once, in channels-last."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W, T) in, (N, C', H', W', T) out."""
        weight = self.weight if self._pre_hook_fx is None else self._pre_hook_fx(self.weight)
        return convolve(input, weight, self).movedim(1, -1)


class FusedDense(_Dense):  # type: ignore[misc]
    """``slayer.synapse.Dense`` as one matrix product of all time steps."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, C, T) in, (N, C', T) out; other shapes as SLAYER does them."""
        if input.dim() != 3:
            stock: torch.Tensor = super().forward(input)
            return stock
        weight = self.weight if self._pre_hook_fx is None else self._pre_hook_fx(self.weight)
        return connect(input, weight).movedim(1, -1)


class _Late:
    """A block that leaves its ``delay_shift`` to its fused neuron."""

    def forward(self, x: torch.Tensor) -> Any:
        block: Any = self
        if block.count_log or not block.delay_shift or not can_fuse(block.neuron) or block.neuron.drop is not None:
            return super().forward(x)  # type: ignore[misc]
        x = block.neuron(block.synapse(x), late=1)
        return x if block.delay is None else block.delay(x)


class FusedConvBlock(_Late, _ConvBlock):  # type: ignore[misc]
    """``slayer.block.cuba.Conv``: synapse, neuron and delay without a copy between them."""


class FusedDenseBlock(_Late, _DenseBlock):  # type: ignore[misc]
    """``slayer.block.cuba.Dense``, likewise."""


FUSED: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    _Neuron: FusedNeuron,
    _Conv: FusedConv,
    _Dense: FusedDense,
    _ConvBlock: FusedConvBlock,
    _DenseBlock: FusedDenseBlock,
    slayer.block.cuba.Flatten: Flatten,
}


def can_fuse(neuron: Any) -> bool:
    """Whether a CUBA neuron has nothing that the fused pass leaves out.

    These run on SLAYER's own code: decays of their own per channel or trained, a state kept between calls, graded spikes.
    """
    return (
        dynamics.runs_on(neuron.device)
        and bool(neuron.shared_param)
        and not (neuron.requires_grad or neuron.persistent_state or neuron.graded_spike or neuron.debug)
    )


def fuse(model: torch.nn.Module) -> int:
    """Puts the fused parts in the place of SLAYER's CUBA neurons, convolutions and dense synapses, in place.

    Spikes are the same, bit for bit, where the sums are (all whole numbers over a power of two, as quantised weights give);
    gradients are the same up to the order of sums.  A copy or a state dict of the model works as before.

    Args:
        model: a network of ``slayer.block.cuba`` blocks, of ours, or of your own around SLAYER's parts.

    Returns:
        how many parts were replaced.
    """
    replaced = 0
    for module in model.modules():
        fused = FUSED.get(type(module))
        if fused is not None and not (fused is Flatten and module.count_log):
            module.__class__ = fused
            replaced += 1
    return replaced
