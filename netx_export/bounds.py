"""How far the states of LIF and integrator neurons can go: upper bounds over the weights, in exact arithmetic.

A network whose bounds stay below the limits computes with the real sums: no current wraps, no voltage saturates, no read-out
spikes.  :mod:`qpsnn_lava.freeze` refuses a model by them, :mod:`netx_export.inspect` shows them of any file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from netx_export.integers import DECAY_ONE, SHIFT, STATE_LIMIT, IntArray
from netx_export.network import MAX_THRESHOLD, Integrator, Lif, Network

CEILING = 1 << 40  # a bound that is larger is not followed any further
LONGEST = 1 << 14  # steps: longer windows are not looked for


def largest_states(
    weight: IntArray, bias: IntArray, current_decay: int, voltage_decay: int, steps: int, input_max: int
) -> tuple[int, int]:
    """Upper bounds of ``|u|`` and ``|v|`` over a window, in exact arithmetic.

    ``A = 64 sum|w| x_max`` per target;  ``U_t = ceil((4096 - d_u) U_{t-1} / 4096) + A``;
    ``V_t = ceil((4096 - d_v) V_{t-1} / 4096) + U_t + 64 |b|``;  the largest over the targets after ``steps`` steps.

    Args:
        weight: (post, ...), all further axes are summed.
        bias: (post,), mantissas of 2**6.
        current_decay, voltage_decay: d_u and d_v, 0..4096.
        steps: T.
        input_max: x_max, the largest value of a spike that arrives.

    Returns:
        (U_T, V_T); beyond 2**40 the first values that are larger.
    """
    return _after(steps, arriving(weight, input_max), bias, current_decay, voltage_decay)


def arriving(weight: IntArray, input_max: int) -> NDArray[np.int64]:
    """``A = 64 sum|w| x_max`` of each target, int64 (post,); a little more than 2**40 stands for anything larger."""
    unit = input_max << SHIFT
    sums: NDArray[np.int64] = np.abs(weight.reshape(weight.shape[0], -1), dtype=np.int64).sum(1)
    return np.minimum(sums, CEILING // unit + 1) * unit


def voltage_limit(neuron: Lif | Integrator) -> int:
    """What ``|v|`` must stay below: 2**23, where it saturates; of an integrator, where it would spike (131071 * 64 + 1)."""
    return (MAX_THRESHOLD << SHIFT) + 1 if isinstance(neuron, Integrator) else STATE_LIMIT


@dataclass(frozen=True)
class Reach:
    """How far the states of one population can go.

    Args:
        current, voltage: upper bounds of ``|u|`` and ``|v|`` within the network's window; None where it has none.
        current_limit, voltage_limit: what they must stay below (2**23; :func:`voltage_limit`).
        safe_steps: the longest window in which they do, whatever the input (16384: at least so many); None: in any.
    """

    current: int | None
    voltage: int | None
    current_limit: int
    voltage_limit: int
    safe_steps: int | None


def reach(network: Network, name: str) -> Reach | None:
    """The bounds of a population, by :func:`largest_states` over the sum of all that projects to it.

    Args:
        network: its ``steps`` are the window, its ``input_bits`` the largest spike of the host.
        name: of the population.

    Returns:
        None for the host's input (also where the host drives its neurons) and for sigma-delta neurons, which have no such limits.
    """
    population, projections = network[name], network.into(name)
    neuron = population.neuron
    if not isinstance(neuron, Lif | Integrator) or not projections:
        return None
    host = (1 << network.input_bits) - 1 if network.input_bits and network.input.neuron is None else 1
    total = sum(
        (arriving(p.synapse.weight, host if p.source == network.input.name else 1) for p in projections),
        start=np.zeros(1, np.int64),
    )
    bias = np.zeros(total.size, np.int64) if population.bias is None else population.bias
    decays = neuron.current_decay, neuron.voltage_decay
    limit = voltage_limit(neuron)
    current = voltage = None
    if network.steps is not None:
        current, voltage = _after(network.steps, total, bias, *decays)
    return Reach(current, voltage, STATE_LIMIT, limit, _safe_steps(total, bias, *decays, limit))


def _after(steps: int, total: NDArray[np.int64], bias: IntArray, current_decay: int, voltage_decay: int) -> tuple[int, int]:
    last = deque(islice(_growth(total, bias, current_decay, voltage_decay), steps), maxlen=1)
    return last[0] if last else (0, 0)


def _safe_steps(total: NDArray[np.int64], bias: IntArray, current_decay: int, voltage_decay: int, limit: int) -> int | None:
    growth = islice(_growth(total, bias, current_decay, voltage_decay), LONGEST)
    steps = 0
    for u, v in growth:
        if u >= STATE_LIMIT or v >= limit:
            return steps
        steps += 1
    return LONGEST if steps == LONGEST else None


def _growth(total: NDArray[np.int64], bias: IntArray, current_decay: int, voltage_decay: int) -> Iterator[tuple[int, int]]:
    """(U_t, V_t) for t = 1, 2, ...; ends where they no longer change, or after the first beyond 2**40.

    U_t and V_t rise with A and with |b|, so only the targets that no other exceeds in both are followed.
    """
    extra = np.abs(bias, dtype=np.int64) << SHIFT
    order = np.lexsort((-extra, -total))
    best = np.maximum.accumulate(extra[order])
    front = order[np.flatnonzero(np.diff(best, prepend=-1))]
    pairs = [(int(total[i]), int(extra[i])) for i in front]
    u = v = [0] * len(pairs)
    while True:
        before = u, v
        u = [_faded(x, current_decay) + a for x, (a, _) in zip(u, pairs, strict=True)]
        v = [_faded(x, voltage_decay) + y + b for x, y, (_, b) in zip(v, u, pairs, strict=True)]
        if (u, v) == before:
            return
        yield max(u), max(v)
        if max(u) > CEILING or max(v) > CEILING:
            return


def _faded(x: int, rate: int) -> int:
    return (x * (DECAY_ONE - rate) + DECAY_ONE - 1) // DECAY_ONE
