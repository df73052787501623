"""The integer network: populations, projections, and nothing else.

A :class:`Network` is what a trained model becomes when it is frozen, what a netx file holds, what the simulator and Lava
run and what the mapper places.  All of it is immutable and comparable; algorithms live in other modules.

Axes: C, H, W for populations of three dimensions, a flattened population is in C, H, W order; time is always last.
Units: weights are the integers that the chip multiplies, membrane states are integers of 24 bits (see
:mod:`netx_export.integers`), decays are in 4096ths, thresholds and biases are mantissas of 2**6.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from netx_export.errors import NetworkError

MAX_THRESHOLD = 131071  # 17 bits (Loihi: mantissa of 2**6)
MAX_DELTA_THRESHOLD = (1 << 19) - 1  # of sigma-delta neurons: shifted by 12 it fits 32 bits
MAX_DELAY = 62  # steps (Lava clamps there)
MAX_NEURONS = 1 << 27  # of one population: refuses absurd sizes before anything is allocated


def _frozen_int32(name: str, values: ArrayLike) -> NDArray[np.int32]:
    """A read-only int32 copy of ``values``; refuses fractions and values beyond 32 bits."""
    array = np.asarray(values)
    if array.dtype.kind not in "iub":
        if array.dtype.kind != "f":
            raise NetworkError(f"{name}: expected integers, found {array.dtype}.")
        if not np.all(np.isfinite(array)):
            raise NetworkError(f"{name}: expected integers, found values that are not finite.")
        fractional = array != np.rint(array)
        if np.any(fractional):
            raise NetworkError(
                f"{name}: {int(fractional.sum())} of {array.size} values are not whole numbers, the first is "
                f"{array[fractional].flat[0]}; the chip holds integers only. Freeze the model instead of rounding the file."
            )
    if array.size and (array.max() > np.iinfo(np.int32).max or array.min() < np.iinfo(np.int32).min):
        raise NetworkError(f"{name}: values {array.min()}..{array.max()} do not fit 32 bits.")
    frozen = np.array(array, dtype=np.int32, order="C")
    frozen.setflags(write=False)
    return frozen


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise NetworkError(f"{name} is {value!r}; it must be a whole number in {low}..{high}.")


def _whole(name: str, values: Iterable[int]) -> tuple[int, ...]:
    """``values`` as a tuple of int; refuses fractions, which ``int`` would cut off in silence."""
    try:
        return tuple(operator.index(n) for n in values)
    except TypeError:
        raise NetworkError(f"{name} is {values!r}; whole numbers are expected.") from None


@dataclass(frozen=True)
class Lif:
    """Current-based leaky integrate-and-fire neuron of Loihi (CUBA), in device integers.

    With the decay ``dec(x, d) = sign(x) * ((|x| * (4096 - d)) >> 12)``, each step computes::

        u := wrap24(dec(u, current_decay) + (a << 6))        a = sum of weight * spike that arrives in this step
        v := sat24(dec(v, voltage_decay) + u + (bias << 6))
        s := v > (threshold << 6);  v := 0 where s;  u stays

    Args:
        current_decay: 0..4096, in 4096ths a step (4096: no memory of the current).
        voltage_decay: 0..4096, in 4096ths a step (0: integrate-and-fire without leak).
        threshold: mantissa of 2**6, 0..2**24 but not 131071 (that neuron is the :class:`Integrator`, so that equal networks
            compare equal); the chip holds 17 bits, which :mod:`qpsnn_lava.freeze` enforces.

    Source: Lava 0.10 ``lava/proc/lif/models.py`` (PyLifModelBitAcc), Davies et al. 2018.
    """

    current_decay: int
    voltage_decay: int
    threshold: int

    def __post_init__(self) -> None:
        _check_range("current_decay", self.current_decay, 0, 4096)
        _check_range("voltage_decay", self.voltage_decay, 0, 4096)
        _check_range("threshold", self.threshold, 0, 1 << 24)
        if self.threshold == MAX_THRESHOLD:
            raise NetworkError(f"a Lif with the chip's largest threshold, {MAX_THRESHOLD}, is an Integrator: use that type.")
        for name in ("current_decay", "voltage_decay", "threshold"):
            object.__setattr__(self, name, int(getattr(self, name)))


@dataclass(frozen=True)
class Integrator:
    """A read-out neuron: a :class:`Lif` with the largest threshold of the chip, 131071; its value is v.

    It would spike only at v > 131071 * 64, which freezing excludes; simulation and file treat it exactly as that Lif.
    Default: v sums u over the window (current decay 4096, voltage decay 0), as the last layer of Intel's PilotNet.
    """

    current_decay: int = 4096
    voltage_decay: int = 0

    def __post_init__(self) -> None:
        _check_range("current_decay", self.current_decay, 0, 4096)
        _check_range("voltage_decay", self.voltage_decay, 0, 4096)
        for name in ("current_decay", "voltage_decay"):
            object.__setattr__(self, name, int(getattr(self, name)))

    @property
    def threshold(self) -> int:
        """The mantissa that the file and the chip hold: 131071."""
        return MAX_THRESHOLD


@dataclass(frozen=True)
class Delta:
    """Input neuron of a sigma-delta network: sends the change of the host's value x once it is large enough.

    Each step computes, in integers of 32 bits that wrap::

        a := x << 12                                  x = what the host shows in this step, any sign
        d := a - a_before + residue
        s := d if |d| >= (threshold << 12) else 0
        residue := d - s;  sends s >> 6

    (12 = 6 bits of the message's fraction and 6 of the state's.  What ``>> 6`` cuts off is lost.)  A receiver that adds up
    everything sent has x in units of 2**-6.  The chip's messages have 16 bits with their sign, which Lava does not enforce.

    Args:
        threshold: 0..2**19 - 1, in units of x; 0 sends in every step, also where nothing changed (0 is sent then).

    Source: Lava 0.10 ``lava/proc/sdn/models.py`` (PyDeltaModelFixed) with lava-dl's spike_exp = state_exp = 6.
    """

    threshold: int

    def __post_init__(self) -> None:
        _check_range("threshold", self.threshold, 0, MAX_DELTA_THRESHOLD)
        object.__setattr__(self, "threshold", int(self.threshold))


@dataclass(frozen=True)
class SigmaDelta:
    """Hidden neuron of a sigma-delta network: adds up what arrives, rectifies it and sends its changes.

    Each step computes, in integers of 32 bits that wrap::

        sigma := sigma + a                            a = sum of weight * message that arrives in this step
        y := max(sigma + (bias << 12), 0)
        d := y - y_before + residue
        s := d if |d| >= (threshold << 12) else 0
        residue := d - s;  sends s >> 6

    so that all its messages add up to y in units of 2**-6: messages have signs and 16 bits.  There is no leak and no reset.

    Args:
        threshold: 0..2**19 - 1, in units of y.

    Source: Lava 0.10 ``lava/proc/sdn/models.py`` (PySigmaDeltaModelFixed) with lava-dl's spike_exp = state_exp = 6 and ReLU,
    the one activation that its reader knows.
    """

    threshold: int

    def __post_init__(self) -> None:
        _check_range("threshold", self.threshold, 0, MAX_DELTA_THRESHOLD)
        object.__setattr__(self, "threshold", int(self.threshold))


@dataclass(frozen=True)
class Sigma:
    """Output neuron of a sigma-delta network: ``sigma := sigma + a`` in 32 bits; sends sigma itself, in every step.

    Source: Lava 0.10 ``lava/proc/sdn/models.py`` (PySigmaModelFixed).
    """

    @property
    def threshold(self) -> int:
        """0: it sends in every step."""
        return 0


Neuron: TypeAlias = Lif | Integrator | Delta | SigmaDelta | Sigma


def neuron_of(current_decay: int, voltage_decay: int, threshold: int) -> Lif | Integrator:
    """The neuron with these device integers: an Integrator where the threshold is 131071, else a Lif."""
    if threshold == MAX_THRESHOLD:
        return Integrator(current_decay, voltage_decay)
    return Lif(current_decay, voltage_decay, threshold)


@dataclass(frozen=True)
class Drive:
    """How a host turns a real input x into the bias mantissa of a driven input population: ``weight * x + bias``."""

    weight: int = 64
    bias: int = 0

    def __post_init__(self) -> None:
        for name in ("weight", "bias"):
            _check_range(f"drive {name}", getattr(self, name), -(1 << 31) + 1, (1 << 31) - 1)
            object.__setattr__(self, name, int(getattr(self, name)))


@dataclass(frozen=True, eq=False)
class Population:
    """Neurons of one kind that share their parameters.

    Args:
        name: unique in its network.
        shape: (C, H, W) or (N,).
        neuron: their dynamics; None for the host's input, which is spikes as they are given.
        bias: int32[C] (or [N]), one per channel, None for none: mantissas of 2**6 added to v every step, or (SigmaDelta) in units
            of y.
        drive: only for an input population that has neurons: how the host computes their bias from an image.
    """

    name: str
    shape: tuple[int, ...]
    neuron: Neuron | None = None
    bias: NDArray[np.int32] | None = None
    drive: Drive | None = None

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise NetworkError(f"a population needs a name, found {self.name!r}.")
        shape = _whole(f"{self.name}: shape", self.shape)
        if len(shape) not in (1, 3) or any(n < 1 for n in shape):
            raise NetworkError(f"{self.name}: shape {shape} must be (C, H, W) or (N,) of positive sizes.")
        if math.prod(shape) > MAX_NEURONS:
            raise NetworkError(f"{self.name}: {math.prod(shape)} neurons; at most {MAX_NEURONS} are allowed in a population.")
        object.__setattr__(self, "shape", shape)
        if self.bias is not None:
            if self.neuron is None:
                raise NetworkError(f"{self.name}: a bias needs neurons, but this population is the host's input.")
            if isinstance(self.neuron, Delta | Sigma):
                raise NetworkError(f"{self.name}: a {type(self.neuron).__name__} neuron has no bias; drop it.")
            bias = _frozen_int32(f"{self.name}: bias", self.bias)
            if bias.shape != shape[:1]:
                raise NetworkError(f"{self.name}: bias of shape {bias.shape}; expected {shape[:1]}, one value per channel.")
            object.__setattr__(self, "bias", bias if bias.any() else None)
        if self.drive is not None and self.neuron is None:
            raise NetworkError(f"{self.name}: a drive needs neurons, but this population is the host's input.")

    @property
    def size(self) -> int:
        """Number of neurons."""
        return math.prod(self.shape)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Population):
            return NotImplemented
        return (self.name, self.shape, self.neuron, self.drive) == (
            other.name,
            other.shape,
            other.neuron,
            other.drive,
        ) and _equal(self.bias, other.bias)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Dense:
    """All-to-all synapses: ``a[post] = sum_pre weight[post, pre] * s[pre]``.

    Args:
        weight: int32[post, pre], read-only after construction.
    """

    weight: NDArray[np.int32]

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", _frozen_int32("dense weight", self.weight))
        if self.weight.ndim != 2 or not self.weight.size:
            raise NetworkError(f"dense weight of shape {self.weight.shape}; expected (post, pre).")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Dense):
            return NotImplemented
        return _equal(self.weight, other.weight)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Conv:
    """Shared synapses, a cross-correlation (as torch's conv2d) over H and W.

    ``a[o, y, x] = sum_{i, j, k} weight[o, i, j, k] * s[g*I + i, y*sy + j*dy - py, x*sx + k*dx - px]`` with I input channels
    per group and g = the group of o; terms outside the input are zero.

    Args:
        weight: int32[out, in/groups, ky, kx], read-only after construction.
        stride, padding, dilation: (y, x).
        groups: divides input and output channels; ``groups == in == out`` is depthwise (sum pooling).
    """

    weight: NDArray[np.int32]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", _frozen_int32("conv weight", self.weight))
        if self.weight.ndim != 4 or not self.weight.size:
            raise NetworkError(f"conv weight of shape {self.weight.shape}; expected (out, in/groups, ky, kx).")
        for name, low in (("stride", 1), ("padding", 0), ("dilation", 1)):
            pair = _whole(f"conv {name}", getattr(self, name))
            if len(pair) != 2 or any(not low <= n < 1 << 16 for n in pair):
                raise NetworkError(f"conv {name} is {pair}; expected two numbers (y, x), each in {low}..65535.")
            object.__setattr__(self, name, pair)
        object.__setattr__(self, "groups", _whole("conv groups", (self.groups,))[0])
        if self.groups < 1 or self.weight.shape[0] % self.groups:
            raise NetworkError(f"conv groups {self.groups} must divide its {self.weight.shape[0]} output channels.")

    @property
    def in_channels(self) -> int:
        """Channels of the source population."""
        return self.weight.shape[1] * self.groups

    def output_shape(self, source: tuple[int, ...]) -> tuple[int, int, int]:
        """(C, H, W) that this convolution makes of a source of shape (C, H, W)."""
        if len(source) != 3 or source[0] != self.in_channels:
            raise NetworkError(f"conv of {self.in_channels} input channels does not take a source of shape {source}.")
        size = []
        for n, kernel, s, p, d in zip(
            source[1:], self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True
        ):
            reach = d * (kernel - 1) + 1
            if n + 2 * p < reach:
                raise NetworkError(f"conv kernel reaches {reach} pixels over a padded input of {n + 2 * p}.")
            size.append((n + 2 * p - reach) // s + 1)
        return (self.weight.shape[0], size[0], size[1])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Conv):
            return NotImplemented
        return (self.stride, self.padding, self.dilation, self.groups) == (
            other.stride,
            other.padding,
            other.dilation,
            other.groups,
        ) and _equal(self.weight, other.weight)

    __hash__ = None  # type: ignore[assignment]


Synapse: TypeAlias = Dense | Conv


@dataclass(frozen=True, eq=False)
class Projection:
    """Synapses from one population to another (or to itself: recurrent).

    A spike that leaves the source in step t arrives in step t + 1 + delay.

    Args:
        source, target: names of populations.
        synapse: Dense or Conv.
        delay: int32 steps 0..62 of a Dense, of shape (post, 1) (axonal delays of the target, as lava-dl's files hold them)
            or (1, pre); None for none.
    """

    source: str
    target: str
    synapse: Synapse
    delay: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        if self.delay is None:
            return
        if not isinstance(self.synapse, Dense):
            raise NetworkError(f"{self.source} -> {self.target}: only dense synapses can have delays (Lava ignores a conv's).")
        delay = _frozen_int32(f"{self.source} -> {self.target}: delay", self.delay)
        post, pre = self.synapse.weight.shape
        if delay.shape not in ((post, 1), (1, pre)):
            raise NetworkError(
                f"{self.source} -> {self.target}: delay of shape {delay.shape}; expected ({post}, 1) or (1, {pre})."
            )
        if delay.min() < 0 or delay.max() > MAX_DELAY:
            raise NetworkError(
                f"{self.source} -> {self.target}: delays {delay.min()}..{delay.max()} steps; the limit is 0..{MAX_DELAY}."
            )
        if delay.shape == (1, 1) and post > 1:  # a single source: the same delay for every target, in the file's one way
            delay = _frozen_int32("delay", np.repeat(delay, post, axis=0))
        object.__setattr__(self, "delay", delay if delay.any() else None)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Projection):
            return NotImplemented
        return (self.source, self.target, self.synapse) == (other.source, other.target, other.synapse) and _equal(
            self.delay, other.delay
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Voltage:
    """Read-out on the host: the class is the output neuron with the highest v at the end of the window."""

    def __str__(self) -> str:
        return "integrator"


@dataclass(frozen=True)
class Rate:
    """Read-out on the host: spike counts summed over the consecutive neurons of each class; the highest wins.

    Args:
        classes: number of classes; it divides the size of the output population.
    """

    classes: int

    def __post_init__(self) -> None:
        _check_range("classes", self.classes, 1, MAX_NEURONS)

    def __str__(self) -> str:
        return "rate"


Readout: TypeAlias = Voltage | Rate


@dataclass(frozen=True)
class Network:
    """A directed graph of populations; the netx chain is the case where each has one projection from the one before.

    Args:
        populations: the first is the input.
        projections: any order; a target may have several (their sums add up).
        readout: how the host reads the answer; None when the file does not say.
        input_bits: bits of a graded input spike (1..24), its sign included where the host sends to sigma-delta neurons;
            0: spikes are 0 or 1.
        steps: length T of the window that the network was trained for; None when the file does not say.

    Raises:
        NetworkError: when names, shapes or ranges do not fit together.
    """

    populations: tuple[Population, ...]
    projections: tuple[Projection, ...]
    readout: Readout | None = None
    input_bits: int = 0
    steps: int | None = None
    _index: dict[str, Population] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "populations", tuple(self.populations))
        object.__setattr__(self, "projections", tuple(self.projections))
        if not self.populations:
            raise NetworkError("a network needs at least one population.")
        index = {p.name: p for p in self.populations}
        if len(index) != len(self.populations):
            names = [p.name for p in self.populations]
            raise NetworkError(
                f"population {next(n for n in names if names.count(n) > 1)!r} is there twice; names must be unique."
            )
        object.__setattr__(self, "_index", index)
        reached = {self.populations[0].name}
        for projection in self.projections:
            self._check_projection(projection)
            reached.add(projection.target)
        for population in self.populations[1:]:
            if population.name not in reached:
                raise NetworkError(f"{population.name}: no projection reaches this population.")
            if isinstance(population.neuron, Delta):
                raise NetworkError(
                    f"{population.name}: a Delta neuron encodes the host's input; it must be the first population."
                )
            if population.drive is not None:
                raise NetworkError(f"{population.name}: only the first population can be driven by the host.")
        _check_range("input_bits", self.input_bits, 0, 24)
        if self.steps is not None:
            _check_range("steps", self.steps, 1, 1 << 20)
        if isinstance(self.readout, Rate) and self.output.size % self.readout.classes:
            raise NetworkError(
                f"{self.output.name}: {self.output.size} neurons cannot be shared evenly by {self.readout.classes} classes."
            )

    def _check_projection(self, projection: Projection) -> None:
        where = f"{projection.source} -> {projection.target}"
        for name in (projection.source, projection.target):
            if name not in self._index:
                raise NetworkError(f"{where}: there is no population {name!r}.")
        source, target = self._index[projection.source], self._index[projection.target]
        if target.neuron is None:
            raise NetworkError(f"{where}: the target has no neurons.")
        if isinstance(projection.synapse, Dense):
            post, pre = projection.synapse.weight.shape
            if (post, pre) != (target.size, source.size):
                raise NetworkError(
                    f"{where}: dense weight of shape ({post}, {pre}) does not connect {source.size} to {target.size} neurons."
                )
        else:
            try:
                shape = projection.synapse.output_shape(source.shape)
            except NetworkError as error:
                raise NetworkError(f"{where}: {error}") from None
            if shape != target.shape:
                raise NetworkError(f"{where}: the convolution makes {shape}, the target's shape is {target.shape}.")

    def __getitem__(self, name: str) -> Population:
        """The population of that name."""
        return self._index[name]

    @property
    def input(self) -> Population:
        """The first population: the host's spikes, or neurons that the host drives through their bias."""
        return self.populations[0]

    @property
    def output(self) -> Population:
        """The last population."""
        return self.populations[-1]

    def into(self, name: str) -> tuple[Projection, ...]:
        """The projections that end in the population of that name."""
        return tuple(p for p in self.projections if p.target == name)

    @cached_property
    def depth(self) -> dict[str, int]:
        """Steps from the input to each population: the longest path without going round a loop twice.

        A population at depth d sees what the input shows in step t in step t + d.
        """
        order = {p.name: i for i, p in enumerate(self.populations)}
        depth = {self.input.name: 0}
        for population in self.populations[1:]:
            forward = [p for p in self.into(population.name) if order[p.source] < order[population.name]]
            if not forward:
                raise NetworkError(f"{population.name}: list its source before it; only recurrent projections may go back.")
            depth[population.name] = 1 + max(depth[p.source] for p in forward)
        return depth

    @property
    def has_sigma_delta(self) -> bool:
        """Whether any population has sigma-delta neurons."""
        return any(isinstance(p.neuron, Delta | SigmaDelta | Sigma) for p in self.populations)

    @property
    def has_signed_input(self) -> bool:
        """Whether the host sends values of both signs: into Delta neurons, or as messages to sigma-delta neurons."""
        if self.input.neuron is not None:
            return isinstance(self.input.neuron, Delta)
        targets = [self[p.target].neuron for p in self.projections if p.source == self.input.name]
        return any(isinstance(neuron, SigmaDelta | Sigma) for neuron in targets)

    @property
    def is_chain(self) -> bool:
        """Whether each population after the first has one projection, from the one before it."""
        return len(self.projections) == len(self.populations) - 1 and all(
            [p.source for p in self.into(after.name)] == [before.name]
            for before, after in zip(self.populations, self.populations[1:], strict=False)
        )

    def _repr_html_(self) -> str:
        from netx_export.notebook import network_html  # which imports this module

        return network_html(self)

    @property
    def without_loops(self) -> Network:
        """The same network without the projections of populations to themselves; a netx file holds it where that is a chain."""
        return replace(self, projections=tuple(p for p in self.projections if p.source != p.target))


def _equal(a: NDArray[np.int32] | None, b: NDArray[np.int32] | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and bool(np.array_equal(a, b))
