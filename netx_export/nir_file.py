"""NIR files (neuroir.org): ``write_nir(network, path)``, ``read_nir(path)``, and what a graph of another framework computes.

NIR's nodes are differential equations; it has no time step.  Here they are stepped by ``dt`` with Euler's method, the current first::

    I := I + dt / tau_syn * (w_in * A - I)               A = W s + b, what arrives
    v := v + dt / tau_mem * (v_leak - v + R * I)         (LIF: I = A;  IF: v := v + dt * R * A)
    s := v > v_threshold;  v := v_reset where s

which is the chip's neuron but for its rounding: ``current_decay = 4096 dt / tau_syn``, ``voltage_decay = 4096 dt / tau_mem``.
docs/nir.md has all the equations.  Files are read with the checks of :mod:`netx_export.hdf5`, without
the package ``nir``; writing needs it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from netx_export.atomic import write_bytes
from netx_export.errors import ConfigError, FormatError, MissingError, NetworkError
from netx_export.hdf5 import FREE_BYTES, MAX_LAYERS, encoded, read_tree
from netx_export.integers import DECAY_ONE
from netx_export.network import (
    MAX_NEURONS,
    Conv,
    Dense,
    Drive,
    Integrator,
    Lif,
    Network,
    Population,
    Projection,
    Rate,
    Readout,
    Voltage,
    neuron_of,
)
from netx_export.text import plain

DT = 1e-4  # seconds: the step of the NIR paper's files, and what most importers assume
NO_DECAY = 2.0**40  # tau / dt that stands for a decay of 0: the leak stays below the chip's unit in any window of 2**16 steps
SAME = 1e-6  # how far, relatively, gains and biases of one channel may lie apart
MAX_WEIGHTS = 1 << 26  # of one layer, once a pooling has been multiplied into it

WEIGHTS = ("Linear", "Affine", "Conv2d")
NEURONS = ("CubaLIF", "LIF", "IF", "CubaLI", "LI", "I")
READ = ("Input", *WEIGHTS, "SumPool2d", "Flatten", *NEURONS, "Output")
OURS = ("Delay", "Scale")  # that only files of ours may have
WAYS = {
    "NIRGraph": "write its nodes into the outer graph; a subgraph with recurrent connections has no place in a chain.",
    "AvgPool2d": "write a SumPool2d, and divide the next weights by the pooled pixels.",
    "Scale": "multiply the scale into the weights after it.",
    "Threshold": "write an IF, LIF or CubaLIF.",
    "Conv1d": "write a Conv2d of height 1.",
    "Delay": "leave it out: delays of other frameworks are not read.",
}

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Node:
    """A node of a NIR graph.

    Args:
        name: its key in the graph.
        kind: NIR's name of the type.
        values: its parameters by NIR's names: arrays, or a text.
        integers: what qpsnn-lava keeps in the node's metadata.
    """

    name: str
    kind: str
    values: Mapping[str, Any]
    integers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chain:
    """A NIR graph that is a chain, from its input to its output.

    Args:
        nodes: in the order of the edges.
        integers: what qpsnn-lava keeps in the graph's metadata; empty in files of others.
    """

    nodes: tuple[Node, ...]
    integers: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class RealLayer:
    """One population and the synapses into it, in real numbers, in units of its threshold.  Each step computes::

        u := (1 - current_decay) u + W s
        v := (1 - voltage_decay) v + u + bias
        s := v > 1;  v := 0 where s                          (where it spikes)

    Args:
        name: of the NIR neuron.
        shape: (C, H, W) or (N,).
        weight: W, float64 (post, pre), or (out, in/groups, ky, kx) of a convolution.
        stride, padding, dilation, groups: of a convolution, as :class:`netx_export.network.Conv`.
        bias: float64 (C,) or (N,).
        current_decay, voltage_decay: 0..1 a step.
        spikes: false for LI, CubaLI and I.
        notes: what of the NIR nodes is not computed as they say, in sentences.
    """

    name: str
    shape: tuple[int, ...]
    weight: Floats
    bias: Floats
    current_decay: float
    voltage_decay: float
    spikes: bool = True
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RealNetwork:
    """What a NIR file of another framework computes in steps of ``dt``.

    Args:
        input_name, input_shape: the host's input.
        layers: from the input to the output.
        dt: seconds a step.
    """

    input_name: str
    input_shape: tuple[int, ...]
    layers: tuple[RealLayer, ...]
    dt: float


# --- write -------------------------------------------------------------------------------------------------------------


def write_nir(network: Network, path: Path | str, dt: float = DT) -> None:
    """Writes a chain as a NIR file: its integers as NIR's weights and thresholds, in units of the chip's mantissas.

    ``tau_syn = 4096 dt / current_decay``, ``tau_mem = 4096 dt / voltage_decay`` (2**40 dt where the decay is 0), ``R = tau_mem / dt``,
    ``w_in = tau_syn / dt``, ``v_threshold = threshold``, and a bias b as b of Affine or Conv2d, or as ``v_leak = b tau_mem / dt`` where the
    current has a memory.  The device integers stand in the metadata too, so that :func:`read_nir` gives the same network back.

    Args:
        network: a chain of Lif and Integrator populations.
        path: the file; folders are made; written whole or not at all.
        dt: seconds a step, above 0.

    Raises:
        NetworkError: for what NIR has no node for: sigma-delta neurons, graphs that are not chains.
        ConfigError: for a dt that is no positive number.
        MissingError: where the package nir is not installed.
        RunError: where the disk or the folder does not take the file.
    """
    chain = chain_of(network, dt)
    try:
        import nir
    except ImportError:
        raise MissingError("NIR files are written by the package nir, which is not installed: pip install nir") from None
    nodes: dict[str, Any] = {}
    for node in chain.nodes:
        values = dict(node.values)
        if node.kind in ("Input", "Output"):
            values = {"input_type" if node.kind == "Input" else "output_type": values["shape"]}
        metadata = {"qpsnn": dict(node.integers)} if node.integers else {}
        nodes[node.name] = getattr(nir, node.kind)(**values, metadata=metadata)
    edges = [(a.name, b.name) for a, b in zip(chain.nodes, chain.nodes[1:], strict=False)]
    graph = nir.NIRGraph(nodes, edges, metadata={"qpsnn": dict(chain.integers)}, type_check=False)
    largest = max(np.asarray(value).nbytes for node in chain.nodes for value in node.values.values())
    buffer = io.BytesIO()
    nir.write(
        buffer, graph, compression="gzip" if largest <= FREE_BYTES else None
    )  # equal values pack beyond what is read back
    write_bytes(path, buffer.getvalue())


def chain_of(network: Network, dt: float) -> Chain:
    """The NIR nodes of a network, as :func:`write_nir` describes them."""
    if not 0 < dt < math.inf:
        raise ConfigError(f"dt is {dt:g}; it must be a positive number of seconds, such as {DT:g}.")
    if network.has_sigma_delta:
        raise NetworkError(
            "NIR has no sigma-delta neurons; only networks of LIF and integrator neurons can be exported to it."
        )
    if not network.is_chain:
        raise NetworkError(
            "only chains are exported to NIR: each population needs exactly one projection, from the one before it; leave out skips "
            "and recurrent projections."
        )
    taken = {"input", "output"}
    first = network.input
    nodes = [Node("input", "Input", {"shape": np.array(first.shape)}, {"name": _text(first.name)})]

    def add(name: str, kind: str, values: Mapping[str, Any], integers: Mapping[str, Any] | None = None) -> None:
        safe = name if name and "/" not in name and name.isprintable() and name.strip(".") else f"node{len(nodes)}"
        while safe in taken:
            safe += "_"
        taken.add(safe)
        nodes.append(Node(safe, kind, values, integers or {}))

    def add_neuron(population: Population, leak: bool, drive: Drive | None = None) -> None:
        neuron = population.neuron
        assert isinstance(neuron, Lif | Integrator)
        integers: dict[str, Any] = {
            "name": _text(population.name),
            "current_decay": neuron.current_decay,
            "voltage_decay": neuron.voltage_decay,
            "threshold": neuron.threshold,
        }
        if population.bias is not None:
            integers["bias"] = population.bias
        if drive is not None:
            integers |= {"drive_weight": drive.weight, "drive_bias": drive.bias}
        bias = np.zeros(population.shape[0], np.int64) if population.bias is None else population.bias.astype(np.int64)
        if drive is not None:
            bias = bias + drive.bias
        # What drives an input population goes into v, as a bias does: its current, with or without a memory, stays 0.
        memory = DECAY_ONE if population is first else neuron.current_decay
        shown = neuron_of(memory, neuron.voltage_decay, neuron.threshold)
        add(population.name, *_neuron(population, shown, bias if leak and bias.any() else None, dt), integers)

    if first.neuron is not None:
        drive = first.drive or Drive()
        add(f"{first.name}_drive", "Scale", {"scale": _whole(np.full(first.shape, drive.weight))})
        add_neuron(first, True, first.drive)
    for population, projection in zip(network.populations[1:], network.projections, strict=True):
        source, synapse, delay = network[projection.source], projection.synapse, projection.delay
        neuron = population.neuron
        assert isinstance(neuron, Lif | Integrator)
        later = delay is not None and delay.shape == (population.size, 1) and population.size > 1
        at_once = population.bias is not None and neuron.current_decay == DECAY_ONE and not later
        bias = population.bias if at_once else None
        where = f"{population.name}_synapses"
        if isinstance(synapse, Conv):
            add(where, *_conv(synapse, bias, source.shape))
        else:
            if len(source.shape) == 3:
                flatten = {"input_type": np.array(source.shape), "start_dim": 0, "end_dim": -1}
                add(f"{population.name}_flatten", "Flatten", flatten)
            if delay is not None and not later:
                add(
                    f"{population.name}_delay",
                    *_delay(np.broadcast_to(delay.reshape(-1), (source.size,)), dt),
                    {"steps": delay},
                )
            weight = {"weight": _whole(synapse.weight)}
            add(where, *(("Linear", weight) if bias is None else ("Affine", weight | {"bias": _whole(bias)})))
            if delay is not None and later:
                add(f"{population.name}_delay", *_delay(delay.reshape(-1), dt), {"steps": delay})
        add_neuron(population, not at_once)
    nodes.append(Node("output", "Output", {"shape": np.array(network.output.shape)}))
    integers: dict[str, Any] = {"format": 1, "dt": float(dt), "input_bits": network.input_bits}
    if network.steps is not None:
        integers["steps"] = network.steps
    if network.readout is not None:
        integers["readout"] = str(network.readout)
    if isinstance(network.readout, Rate):
        integers["classes"] = network.readout.classes
    return Chain(tuple(nodes), integers)


def _neuron(
    population: Population, neuron: Lif | Integrator, leak: NDArray[Any] | None, dt: float
) -> tuple[str, dict[str, Any]]:
    """The node of a neuron; ``leak``: its bias, (C,), where v_leak has to hold it."""
    ratio = DECAY_ONE / neuron.voltage_decay if neuron.voltage_decay else NO_DECAY
    per_neuron = np.zeros(population.shape)
    if leak is not None:
        per_neuron += leak.reshape(-1, *[1] * (len(population.shape) - 1)) * ratio

    def full(value: float) -> NDArray[np.float32]:
        return np.full(population.shape, value, np.float32)

    threshold = {"v_threshold": full(neuron.threshold), "v_reset": full(0)}
    if neuron.current_decay == DECAY_ONE and not neuron.voltage_decay and leak is None:
        return "IF", {"r": full(1 / dt)} | threshold
    mem = {"r": full(ratio), "v_leak": per_neuron.astype(np.float32)} | threshold
    if neuron.current_decay == DECAY_ONE:
        return "LIF", {"tau": full(ratio * dt)} | mem
    syn = DECAY_ONE / neuron.current_decay if neuron.current_decay else NO_DECAY
    return "CubaLIF", {"tau_syn": full(syn * dt), "tau_mem": full(ratio * dt), "w_in": full(syn)} | mem


def _conv(conv: Conv, bias: NDArray[Any] | None, source: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    pooling = conv.groups == conv.weight.shape[0] == source[0] and conv.dilation == (1, 1) and bool((conv.weight == 1).all())
    if pooling and bias is None:
        return "SumPool2d", {
            "kernel_size": np.array(conv.weight.shape[2:]),
            "stride": np.array(conv.stride),
            "padding": np.array(conv.padding),
        }
    return "Conv2d", {
        "input_shape": np.array(source[1:]),
        "weight": _whole(conv.weight),
        "stride": np.array(conv.stride),
        "padding": np.array(conv.padding),
        "dilation": np.array(conv.dilation),
        "groups": conv.groups,
        "bias": _whole(np.zeros(conv.weight.shape[0]) if bias is None else bias),
    }


def _delay(steps: NDArray[Any], dt: float) -> tuple[str, dict[str, Any]]:
    return "Delay", {"delay": (steps * dt).astype(np.float32)}


def _whole(values: NDArray[Any]) -> NDArray[Any]:
    """Integers as float32, or as float64 where a float32 would round."""
    return values.astype(np.float32 if np.abs(values.astype(np.int64)).max() <= 1 << 24 else np.float64)


def _text(name: str) -> str:
    return encoded(name).decode("utf-8")


# --- read --------------------------------------------------------------------------------------------------------------


def read_nir(path: Path | str) -> Chain:
    """Reads a NIR file, of any framework, whose graph is a chain of nodes that are known.

    Args:
        path: an HDF5 file.

    Raises:
        FormatError: one sentence: a file that is damaged, too large or hostile, a graph that is not a chain, a node of a type that has no
            place on the chip.
    """
    path = Path(path)
    tree = read_tree(path, "NIR", "node")
    if tree.get("type") != "NIRGraph":
        raise FormatError(f"{path}: the node at the top is of type {_shown(tree.get('type'))}; a NIRGraph is expected.")
    nodes, edges = tree.get("nodes"), tree.get("edges")
    if not isinstance(nodes, dict) or not 1 <= len(nodes) <= MAX_LAYERS:
        count = len(nodes) if isinstance(nodes, dict) else 0
        raise FormatError(f"{path}: a graph of {count} nodes; 1..{MAX_LAYERS} are read.")
    if not isinstance(edges, np.ndarray) or edges.dtype.kind != "U" or edges.ndim != 2 or edges.shape[1] != 2:
        raise FormatError(f"{path}: edges must be pairs of names, (n, 2) texts.")
    order = _in_order(path, tuple(nodes), [(str(a), str(b)) for a, b in edges])
    return Chain(tuple(_node(path, name, nodes[name]) for name in order), _integers(tree))


def _in_order(path: Path, names: tuple[str, ...], edges: list[tuple[str, str]]) -> list[str]:
    after: dict[str, str] = {}
    reached: set[str] = set()
    chain = "only chains are read, without branches and recurrent connections"
    for a, b in edges:
        for name in (a, b):
            if name not in names:
                raise FormatError(f"{path}: an edge names the node {_shown(name)}, which is not there.")
        if a in after or b in reached:
            name, way = (a, "out of") if a in after else (b, "into")
            raise FormatError(f"{path}: node {_shown(name)} has two edges {way} it; {chain}.")
        after[a] = b
        reached.add(b)
    starts = [name for name in names if name not in reached]
    if len(starts) != 1:
        what = "goes round in a circle" if not starts else f"has {len(starts)} nodes without an edge into them"
        raise FormatError(f"{path}: the graph {what}; {chain}.")
    order = [starts[0]]
    while order[-1] in after:
        order.append(after[order[-1]])
    if len(order) != len(names):  # what is left has an edge into each of its nodes
        raise FormatError(f"{path}: a part of the graph goes round in a circle; {chain}.")
    return order


def _node(path: Path, name: str, tree: Any) -> Node:
    kind = tree.get("type") if isinstance(tree, dict) else None
    if not isinstance(kind, str):
        raise FormatError(f"{path}: node {_shown(name)} has no type.")
    if kind not in (*READ, *OURS):
        way = WAYS.get(kind, f"known are {', '.join(READ)}.")
        raise FormatError(f"{path}: node {_shown(name)} is of type {_shown(kind)}, which is not read; {way}")
    return Node(name, kind, {key: value for key, value in tree.items() if key not in ("type", "metadata")}, _integers(tree))


def _integers(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = tree.get("metadata")
    found = metadata.get("qpsnn") if isinstance(metadata, dict) else None
    return found if isinstance(found, dict) else {}


def _shown(name: object) -> str:
    return repr(plain(name)) if isinstance(name, str) else "unknown"


# --- our own -----------------------------------------------------------------------------------------------------------


def network_of(chain: Chain) -> Network:
    """The network that :func:`write_nir` wrote, from the integers in the metadata, equal to the one that was written.

    Raises:
        FormatError: where the file has none, or where they do not say what NIR's parameters say (the file was changed since).
    """
    if not chain.integers:
        raise FormatError("the file holds no integers of qpsnn-lava: another framework wrote it; quantise it.")
    try:
        network = _rebuilt(chain)
        sizes = [np.size(node.values["r"]) for node in chain.nodes if node.kind in NEURONS]
        if sizes != [p.size for p in network.populations if p.neuron is not None]:  # before arrays of such sizes are made
            raise ValueError("other numbers of neurons")
        again = chain_of(network, _number(chain.integers, "dt", float))
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, FormatError):
            raise
        said = f" ({plain(str(error), 120).rstrip('.')})" if isinstance(error, NetworkError | ConfigError) else ""
        raise FormatError(
            f"the integers in the file's metadata are damaged{said}; export it again, or quantise it anew."
        ) from None
    names = [(node.name, node.kind) for node in chain.nodes]
    if names != [(node.name, node.kind) for node in again.nodes]:
        raise FormatError("the integers in the file's metadata belong to other nodes; export it again, or quantise it anew.")
    for here, there in zip(chain.nodes, again.nodes, strict=True):
        for key in sorted({*here.values, *there.values}):
            if key not in here.values or key not in there.values or not np.array_equal(here.values[key], there.values[key]):
                raise FormatError(
                    f"{plain(key)} of node {_shown(here.name)} is not what the integers in its metadata say: the file was changed after "
                    "qpsnn-lava wrote it; quantise it anew to take NIR's parameters."
                )
    return network


def _rebuilt(chain: Chain) -> Network:
    """The network of the metadata's integers and of NIR's weights; fails anyhow where they are damaged."""
    populations: list[Population] = []
    projections: list[Projection] = []
    shape: tuple[int, ...] = ()
    synapse: Dense | Conv | None = None
    delay = None
    for node in chain.nodes:
        values = node.values
        if node.kind == "Input":
            shape = tuple(int(n) for n in values["shape"])
            populations.append(Population(str(node.integers["name"]), shape))
        elif node.kind == "Conv2d":
            stride, padding, dilation = (_pair(values[key]) for key in ("stride", "padding", "dilation"))
            synapse = Conv(values["weight"], stride, padding, dilation, int(values["groups"]))
        elif node.kind == "SumPool2d":
            ones = _ones(node, shape[0], _pair(values["kernel_size"]))
            synapse = Conv(ones, _pair(values["stride"]), _pair(values["padding"]), groups=shape[0])
        elif node.kind in ("Linear", "Affine"):
            synapse = Dense(values["weight"])
        elif node.kind == "Delay":
            delay = node.integers["steps"]
        elif node.kind in NEURONS:
            known = node.integers
            neuron = neuron_of(*(_number(known, key, int) for key in ("current_decay", "voltage_decay", "threshold")))
            if synapse is None:
                drive = None
                if "drive_weight" in known:
                    drive = Drive(_number(known, "drive_weight", int), _number(known, "drive_bias", int))
                populations[0] = Population(str(known["name"]), shape, neuron, known.get("bias"), drive)
                continue
            shape = synapse.output_shape(shape) if isinstance(synapse, Conv) else (synapse.weight.shape[0],)
            source, name = populations[-1].name, str(known["name"])
            populations.append(Population(name, shape, neuron, known.get("bias")))
            projections.append(Projection(source, name, synapse, delay))
            synapse = delay = None
    kept = chain.integers
    if _number(kept, "format", int) != 1:
        raise NetworkError("they are of a format that a later qpsnn-lava wrote")
    readout: Readout | None = None
    if "readout" in kept:
        readout = Rate(_number(kept, "classes", int)) if kept["readout"] == "rate" else Voltage()
    steps = _number(kept, "steps", int) if "steps" in kept else None
    return Network(tuple(populations), tuple(projections), readout, _number(kept, "input_bits", int), steps)


def _number(values: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    return kind(np.asarray(values[key]).item())


# --- of others ---------------------------------------------------------------------------------------------------------


def layers_of(chain: Chain, dt: float | None = None) -> RealNetwork:
    """What a NIR chain computes in steps of ``dt``, each layer in units of its threshold.

    With ``d = dt / tau_mem``, ``e = dt / tau_syn``, ``theta = v_threshold - v_reset`` and v counted from v_reset (where it also starts)::

        voltage_decay = d;  current_decay = e                                   (LIF: e = 1;  IF: e = 1, d = 0)
        W' = g W / theta;  bias = (g b / e + d (v_leak - v_reset)) / theta      g = R d e w_in  (LIF: R d;  IF: R dt)

    (b acts through the current in NIR, and at once here: of a CubaLIF that is what it settles at, and noted.)  A SumPool2d before a Conv2d
    or Linear is multiplied into its weights, exactly.  LI, CubaLI and I can only be the last layer; their unit is v's own.

    Args:
        chain: from :func:`read_nir`.
        dt: seconds a step; None: 1 for graphs of IF and I alone (a time in steps), else refused, because NIR files do not say it.

    Raises:
        FormatError: one sentence that names the node: values without a meaning on the chip, shapes that do not fit.
        ConfigError: where dt is missing, is no positive number, or is longer than a time constant.
    """
    leaky = [node for node in chain.nodes if node.kind in ("CubaLIF", "LIF", "CubaLI", "LI")]
    if dt is None:
        if leaky:
            raise ConfigError(
                f"node {_shown(leaky[0].name)} has a time constant in seconds, and a NIR file does not say how long a step is; say it "
                f"with dt (--dt), such as {DT:g}."
            )
        dt = 1.0
    if not 0 < dt < math.inf:
        raise ConfigError(f"dt is {dt:g}; it must be a positive number of seconds, such as {DT:g}.")
    first = chain.nodes[0]
    if first.kind != "Input":
        raise FormatError(f"the graph begins with node {_shown(first.name)}; add an Input node that says the shape.")
    shape = _shape(first)
    layers: list[RealLayer] = []
    pool: _Pool | None = None
    synapses: _Synapses | None = None
    for i, node in enumerate(chain.nodes[1:], 1):
        last = i + 1 == len(chain.nodes) or chain.nodes[i + 1].kind == "Output"
        if node.kind == "Output":
            if synapses is not None or pool is not None or not layers:
                raise FormatError("the graph ends without neurons; add an IF, LIF, CubaLIF, or an LI or I to read out.")
            if i + 1 < len(chain.nodes):
                raise FormatError(f"node {_shown(node.name)} is an Output, but the graph goes on after it.")
        elif node.kind == "Flatten":
            _check_flatten(node, shape)
            shape = (math.prod(shape),)
        elif node.kind == "SumPool2d":
            if pool is not None or synapses is not None:
                raise FormatError(
                    f"node {_shown(node.name)}: a SumPool2d comes right after neurons or the input; put neurons before it."
                )
            pool = _pool(node, shape)
            shape = (shape[0], *pool.size)
        elif node.kind in WEIGHTS:
            if synapses is not None:
                raise FormatError(
                    f"node {_shown(node.name)} follows other weights without neurons between; multiply them into one."
                )
            synapses, shape = _weights(node, shape, pool)
            pool = None
        elif node.kind in NEURONS:
            if synapses is None:
                if pool is None:
                    raise FormatError(f"node {_shown(node.name)} has no weights before it; put a Linear with ones there.")
                if len(shape) == 1:
                    raise FormatError(
                        f"node {_shown(node.name)} follows a SumPool2d and a Flatten; put the neurons before the Flatten."
                    )
                synapses, pool = pool.alone(), None
            if node.kind in ("CubaLI", "LI", "I") and not last:
                raise FormatError(
                    f"node {_shown(node.name)} ({node.kind}) does not spike, so it can only be the last; write a {node.kind}F."
                )
            with np.errstate(all="ignore"):  # what is not finite then is refused
                layers.append(_layer(node, shape, synapses, dt))
            synapses = None
        else:
            raise FormatError(
                f"node {_shown(node.name)} is of type {node.kind}, which is not read; {WAYS.get(node.kind, 'leave it out.')}"
            )
    if synapses is not None or pool is not None or not layers:
        raise FormatError("the graph ends without neurons; add an IF, LIF, CubaLIF, or an LI or I to read out.")
    return RealNetwork(first.name, _shape(first), tuple(layers), dt)


@dataclass(frozen=True, eq=False)
class _Synapses:
    weight: Floats
    bias: Floats
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class _Pool:
    """A SumPool2d whose weights are still to be multiplied into what follows."""

    name: str
    source: tuple[int, int, int]
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def alone(self) -> _Synapses:
        channels = self.source[0]
        _check_count(self.name, channels * math.prod(self.kernel))
        ones = np.ones((channels, 1, *self.kernel))
        return _Synapses(ones, np.zeros(channels), self.stride, self.padding, groups=channels)

    def into_dense(self, weight: Floats) -> Floats:
        """(post, C*h*w) over the pooled pixels to (post, C*H*W) over the source's."""
        (channels, *source), (rows, columns) = self.source, self.size
        post = weight.shape[0]
        pooled = weight.reshape(post, channels, rows, columns)
        whole = [n + 2 * p for n, p in zip(source, self.padding, strict=True)]
        _check_count(self.name, post * channels * math.prod(whole))
        padded = np.zeros((post, channels, *whole))
        (sy, sx), (py, px) = self.stride, self.padding
        for y in range(self.kernel[0]):
            for x in range(self.kernel[1]):
                padded[:, :, y : y + sy * rows : sy, x : x + sx * columns : sx] += pooled
        inner: Floats = padded[:, :, py : py + source[0], px : px + source[1]]
        return inner.reshape(post, -1)

    def into_conv(self, conv: _Synapses) -> _Synapses:
        """One convolution over the source for the pooling and the one after it: tap i, pixel j is tap ``i dilation stride + j``."""
        sizes, strides, paddings = [], [], []
        for n, out, k, s, p, taps, cs, cp, cd in zip(
            self.source[1:],
            self.size,
            self.kernel,
            self.stride,
            self.padding,
            conv.weight.shape[2:],
            conv.stride,
            conv.padding,
            conv.dilation,
            strict=True,
        ):
            if cp and (k > s + p or out * s - p < n):
                raise FormatError(
                    f"node {_shown(self.name)}: this SumPool2d and the padded Conv2d after it are no single convolution (the pooling "
                    "overlaps, or leaves pixels over); put neurons between them."
                )
            sizes.append((taps - 1) * cd * s + k)
            strides.append(s * cs)
            paddings.append(cp * s + p)
        _check_count(self.name, math.prod((*conv.weight.shape[:2], *sizes)))
        weight = np.zeros((*conv.weight.shape[:2], *sizes))
        (sy, sx), (dy, dx) = self.stride, conv.dilation
        for i in range(conv.weight.shape[2]):
            for j in range(conv.weight.shape[3]):
                y, x = i * dy * sy, j * dx * sx
                weight[:, :, y : y + self.kernel[0], x : x + self.kernel[1]] += conv.weight[:, :, i, j, None, None]
        pairs = ((strides[0], strides[1]), (paddings[0], paddings[1]))
        return _Synapses(weight, conv.bias, *pairs, groups=conv.groups)


def _weights(node: Node, shape: tuple[int, ...], pool: _Pool | None) -> tuple[_Synapses, tuple[int, ...]]:
    """The synapses of a weight node (with the pooling before it) and the shape that they make."""
    where = f"node {_shown(node.name)}"
    weight = _reals(node, "weight")
    if not weight.size:
        raise FormatError(f"{where}: a weight of shape {weight.shape} holds nothing.")
    if node.kind != "Conv2d":
        if weight.ndim != 2 or len(shape) != 1 or weight.shape[1] != shape[0]:
            hint = "put a Flatten before it" if len(shape) == 3 else "(post, pre) is expected"
            raise FormatError(f"{where}: a weight of shape {weight.shape} does not take an input of shape {shape}; {hint}.")
        bias = _reals(node, "bias") if node.kind == "Affine" else np.zeros(weight.shape[0])
        _check_bias(where, bias, weight.shape[0])
        made = _Synapses(weight if pool is None else pool.into_dense(weight), bias)
        return made, (weight.shape[0],)
    if weight.ndim != 4 or len(shape) != 3:
        raise FormatError(f"{where}: a Conv2d of a weight of shape {weight.shape} does not take an input of shape {shape}.")
    stride, dilation = _sizes(node, "stride", 1), _sizes(node, "dilation", 1)
    said = node.values.get("padding")
    if isinstance(said, str) and said == "valid":
        padding = (0, 0)
    elif isinstance(said, str) and said == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if stride != (1, 1) or any(n % 2 for n in reach):
            raise FormatError(f"{where}: the padding 'same' needs stride 1 and odd kernels; write the padding as numbers.")
        padding = (reach[0] // 2, reach[1] // 2)
    else:
        padding = _sizes(node, "padding", 0)
    groups = _reals(node, "groups")
    if groups.size != 1 or not 1 <= groups.item() <= weight.shape[0] or groups.item() % 1:
        raise FormatError(f"{where}: groups must be one whole number in 1..{weight.shape[0]}.")
    _check_bias(where, bias := _reals(node, "bias"), weight.shape[0])
    try:
        geometry = Conv(np.ones(weight.shape, np.int8), stride, padding, dilation, int(groups.item()))
        made_shape = geometry.output_shape(shape)
    except NetworkError as error:
        raise FormatError(f"{where}: {error}") from None
    conv = _Synapses(weight, bias, stride, padding, dilation, geometry.groups)
    return (conv if pool is None else pool.into_conv(conv)), made_shape


def _layer(node: Node, shape: tuple[int, ...], synapses: _Synapses, dt: float) -> RealLayer:
    where = f"node {_shown(node.name)}"
    size = math.prod(shape)
    if size > MAX_NEURONS:
        raise FormatError(f"{where}: {size} neurons; at most {MAX_NEURONS} are allowed in a population.")
    spikes = node.kind in ("CubaLIF", "LIF", "IF")

    def per_neuron(key: str, default: float | None = None) -> Floats:
        """One value for each neuron, or one for all (so that nothing larger than the file is made)."""
        values = _reals(node, key, None if key in node.values else default)
        if values.size not in (1, size):
            raise FormatError(
                f"{where}: {values.size} values of {key} for {size} neurons; one for each, or one for all, is expected."
            )
        return values.reshape(-1)

    def decay(key: str) -> tuple[Floats, float]:
        """dt / tau of each neuron, and of all; refused where they differ on the chip."""
        tau = per_neuron(key)
        if tau.min() <= 0:
            raise FormatError(f"{where}: {key} is {tau.min():g}; time constants are positive.")
        rates = dt / tau
        if rates.max() > 1 + 1e-5:
            raise ConfigError(f"{where}: {key} is {tau.min():g} s, below dt = {dt:g} s; give a dt of at most {tau.min():g}.")
        whole = np.rint(np.minimum(rates, 1) * DECAY_ONE)
        if whole.min() != whole.max():
            raise FormatError(
                f"{where}: {key} runs from {tau.min():g} to {tau.max():g}, which is a decay of {int(whole.min())}..{int(whole.max())} in "
                "4096ths; a population has one: train it with one for each layer, or split the layer."
            )
        return np.minimum(rates, 1), float(min(rates[0], 1.0))

    resistance = per_neuron("r")
    start = per_neuron("v_reset", 0.0) if spikes else np.zeros(1)
    threshold = per_neuron("v_threshold") - start if spikes else np.ones(1)
    if threshold.min() <= 0:
        raise FormatError(
            f"{where}: v_threshold is not above v_reset (by {threshold.min():g}); such a neuron spikes without input."
        )
    constant: Floats = np.zeros(1)
    current, voltage = 1.0, 0.0
    notes: list[str] = []
    if node.kind in ("IF", "I"):
        gain, to_bias = resistance * dt, resistance * dt
    else:
        cuba = node.kind in ("CubaLIF", "CubaLI")
        d, voltage = decay("tau_mem" if cuba else "tau")
        gain, to_bias = resistance * d, resistance * d
        constant = d * (per_neuron("v_leak") - start)
        if cuba:
            e, current = decay("tau_syn")
            w_in = per_neuron("w_in", 1.0)
            gain, to_bias = gain * e * w_in, gain * w_in
            if current < 1 and synapses.bias.any():
                notes.append("the bias acts at once with what it settles at; in NIR it comes through the synaptic current.")
    if start.any():
        notes.append("v is counted from v_reset, and starts there.")
    channels = shape[0]

    def per_channel(values: Floats, what: str) -> Floats:
        if values.size == 1:
            return np.repeat(values, channels)
        rows = values.reshape(channels, -1)
        far = np.abs(rows - rows[:, :1]).max()
        if far > SAME * np.abs(rows).max():
            raise FormatError(f"{where}: {what} differs within a channel; the chip's neurons of a channel share it.")
        first: Floats = rows[:, 0]
        return first

    scale = per_channel(gain / threshold, "the gain (r, w_in, tau over v_threshold)")
    bias = per_channel(to_bias / threshold, "the gain (r, w_in, tau over v_threshold)") * synapses.bias
    bias = bias + per_channel(constant / threshold, "v_leak")
    weight = synapses.weight * scale.reshape(-1, *[1] * (synapses.weight.ndim - 1))
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise FormatError(f"{where}: its weights and parameters give values that are not finite.")
    geometry = {key: getattr(synapses, key) for key in ("stride", "padding", "dilation", "groups")}
    return RealLayer(node.name, shape, weight, bias, current, voltage, spikes, **geometry, notes=tuple(notes))


def _pool(node: Node, shape: tuple[int, ...]) -> _Pool:
    if len(shape) != 3:
        raise FormatError(f"node {_shown(node.name)}: a SumPool2d does not take an input of shape {shape}.")
    kernel, stride, padding = _sizes(node, "kernel_size", 1), _sizes(node, "stride", 1), _sizes(node, "padding", 0)
    try:
        pooled = Conv(_ones(node, 1, kernel), stride, padding).output_shape((1, *shape[1:]))
    except NetworkError as error:
        raise FormatError(f"node {_shown(node.name)}: {error}") from None
    return _Pool(node.name, (shape[0], shape[1], shape[2]), pooled[1:], kernel, stride, padding)


def _check_flatten(node: Node, shape: tuple[int, ...]) -> None:
    start, end = (int(_reals(node, key, default).reshape(-1)[0]) for key, default in (("start_dim", 1.0), ("end_dim", -1.0)))
    if len(shape) == 3 and (start, end) not in ((0, -1), (0, 2)):
        raise FormatError(
            f"node {_shown(node.name)} flattens axes {start}..{end} of {shape}; only all of them (0..-1) can be."
        )


def _check_bias(where: str, bias: Floats, channels: int) -> None:
    if bias.shape != (channels,):
        raise FormatError(f"{where}: a bias of shape {bias.shape}; ({channels},) is expected.")


def _check_count(name: str, weights: int) -> None:
    if weights > MAX_WEIGHTS:
        raise FormatError(
            f"node {_shown(name)}: its pooling makes {weights} weights of the layer; at most {MAX_WEIGHTS} are read."
        )


def _reals(node: Node, key: str, default: float | None = None) -> Floats:
    values = node.values.get(key)
    if values is None and default is not None:
        return np.array(default)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iubf":
        raise FormatError(f"node {_shown(node.name)} ({node.kind}) has no {key} of numbers.")
    real = values.astype(np.float64)
    if not real.size or not np.isfinite(real).all():
        raise FormatError(f"node {_shown(node.name)}: {key} holds values that are not finite, or none at all.")
    return real


def _sizes(node: Node, key: str, low: int) -> tuple[int, int]:
    values = _reals(node, key).reshape(-1)
    if values.size not in (1, 2) or np.any(values % 1) or values.min() < low or values.max() >= 1 << 16:
        raise FormatError(f"node {_shown(node.name)}: {key} must be one or two whole numbers in {low}..65535.")
    return (int(values[0]), int(values[-1]))


def _shape(node: Node) -> tuple[int, ...]:
    values = _reals(node, "shape").reshape(-1)
    if values.size not in (1, 3) or np.any(values % 1) or values.min() < 1 or math.prod(values.tolist()) > MAX_NEURONS:
        shown = ", ".join(f"{n:g}" for n in values[:6])
        raise FormatError(
            f"node {_shown(node.name)}: the shape ({shown}) is not (C, H, W) or (N,) of at most {MAX_NEURONS} neurons; leave out "
            "batch and time."
        )
    return tuple(int(n) for n in values)


def _pair(values: Iterable[Any]) -> tuple[int, int]:
    y, x = (int(n) for n in values)
    return y, x


def _ones(node: Node, channels: int, kernel: tuple[int, int]) -> NDArray[np.int32]:
    _check_count(node.name, channels * math.prod(kernel))
    return np.ones((channels, 1, *kernel), np.int32)
