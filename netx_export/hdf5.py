"""The netx HDF5 file: ``write(network, path)`` and ``read(path)``.

The format (docs/netx-format.md) is lava-dl 0.6's: groups ``layer/0..n-1`` of plain datasets.  Ours adds two things that the
stock reader does not look at: ``layer/i/name`` and a top-level group ``qpsnn`` (``steps``, ``input_bits``, ``readout``,
``classes``).  Files come from anywhere: links, external storage and sizes are checked before anything is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from netx_export.atomic import write_bytes
from netx_export.errors import FormatError, NetworkError, QpsnnError
from netx_export.network import (
    MAX_DELAY,
    MAX_NEURONS,
    Conv,
    Delta,
    Dense,
    Drive,
    Lif,
    Network,
    Neuron,
    Population,
    Projection,
    Rate,
    Readout,
    Sigma,
    SigmaDelta,
    Synapse,
    Voltage,
    neuron_of,
)
from netx_export.text import plain

MAX_BYTES = 1 << 30  # of one dataset in memory: 2**28 weights of 32 bits
FREE_BYTES = 1 << 24  # a dataset up to this size may be compressed as well as it can be; a larger one
MAX_RATIO = 100  # at most that many times (deflate reaches 1000, on nothing but zeros)
MAX_LAYERS = 4096
MAX_TEXT = 256  # bytes of UTF-8
MAX_MEMBERS = 1 << 16  # groups and datasets of a tree, and texts of one of its datasets
MAX_DEPTH = 8  # of groups in a tree: hard links can go round in circles

AS_LAVA = "read it as Lava does (as_lava) to ignore it too."
MESSAGE_BITS = 16  # of the host's messages to sigma-delta neurons where the file does not say: lava-dl's default

# What the format has (docs/netx-format.md): anything else is nobody's.  The last three of a neuron are left over from training.
LAYER_KEYS = {
    "type",
    "shape",
    "name",
    "neuron",
    "weight",
    "weight_rec",
    "bias",
    "delay",
    "stride",
    "padding",
    "dilation",
    "groups",
}
LAYER_KEYS |= {"inFeatures", "outFeatures", "inChannels", "outChannels", "kernelSize"}
NEURON_KEYS = {"type", "iDecay", "vDecay", "vThMant", "refDelay", "gradedSpike", "wgtExp", "weight_exp", "messageBits"}
NEURON_KEYS |= {"activation", "sigma_output", "theta", "tauRho", "scaleRho"}
ROOT_KEYS = {"layer", "qpsnn", "simulation"}
STOCK_TYPES = {"pool", "convT", "unpool", "average", "concat", "dense_comp"}  # that stock Lava refuses, or runs
MAX_UNKNOWN = 100  # of one group that are listed

# A dense layer without neurons gets this from the stock reader: u sums up, v = u, 2**17 is never exceeded.
DEFAULT_NEURON = Lif(current_decay=0, voltage_decay=4096, threshold=1 << 17)


# --- write -------------------------------------------------------------------------------------------------------------


def write(network: Network, path: Path | str) -> None:
    """Writes a chain as a netx file that the stock lava-dl reader loads; atomic (temporary file, then rename).

    Args:
        network: a chain (netx knows no other graph), in which dense populations may project to themselves (dense_rec); its
            input without neurons, or with neurons that the host drives.
        path: the file; folders are made.

    Raises:
        NetworkError: for a network that is not a chain, or whatever else the format has no place for.
        RunError: where the disk or the folder does not take the file (nothing is left half-written).
    """
    if not network.without_loops.is_chain:
        raise NetworkError(
            "netx files hold chains only: each population needs exactly one projection from the one before it, and may have one "
            "to itself."
        )
    # In memory first: where the disk fills up under HDF5's own writes, the library can crash the process at close.
    with h5py.File("netx", "w", driver="core", backing_store=False) as file:
        _write_layers(network, file)
        _write_extras(network, file)
        file.flush()
        image = file.id.get_file_image()
    write_bytes(path, image)


def _write_layers(network: Network, file: h5py.File) -> None:
    first = network.input
    index = 0

    def layer(kind: str, shape: tuple[int, ...], name: str | None = None) -> h5py.Group:
        nonlocal index
        group = file.create_group(f"layer/{index}")
        index += 1
        group.create_dataset("type", (1,), "S10", [kind.encode("ascii")])
        group.create_dataset("shape", data=np.array(shape, dtype=np.int64))
        if name is not None:
            group.create_dataset("name", data=np.bytes_(encoded(name)))
        return group

    if network.into(first.name):
        raise NetworkError(f"{first.name}: netx has no place for a projection into the input.")
    group = layer("input", first.shape, first.name)
    if first.neuron is not None:
        if first.bias is not None:
            raise NetworkError(
                f"{first.name}: a driven input takes its bias from the host; netx has no place for a fixed one."
            )
        if first.drive is not None:  # without it the reader takes 64 and 0
            group.create_dataset("weight", data=_stored(np.array([first.drive.weight])))
            group.create_dataset("bias", data=_stored(np.array([first.drive.bias])))
        _write_neuron(group, first.neuron)
    for population in network.populations[1:]:
        into = network.into(population.name)
        (projection,) = (p for p in into if p.source != p.target)
        loops = [p for p in into if p.source == p.target]
        source = network[projection.source]
        assert population.neuron is not None
        if loops:
            _check_loops(population.name, projection, loops)
        if isinstance(projection.synapse, Dense):
            if len(population.shape) != 1:
                raise NetworkError(f"{population.name}: a dense layer's shape in netx is (N,), found {population.shape}.")
            if len(source.shape) == 3:
                layer("flatten", (source.size,))
            group = layer("dense_rec" if loops else "dense", population.shape, population.name)
            group.create_dataset("inFeatures", data=source.size)
            group.create_dataset("outFeatures", data=population.size)
            group.create_dataset("weight", data=_stored(projection.synapse.weight))
            if loops:
                group.create_dataset("weight_rec", data=_stored(loops[0].synapse.weight))
            if projection.delay is not None:
                post, pre = projection.synapse.weight.shape
                if projection.delay.shape == (1, pre) and post == pre > 1:
                    raise NetworkError(
                        f"{population.name}: netx reads {pre} delays of a square layer as its target's, not its source's."
                    )
                group.create_dataset("delay", data=projection.delay.reshape(-1).astype(np.float32))
        else:
            conv = projection.synapse
            group = layer("conv", population.shape, population.name)
            group.create_dataset("inChannels", data=conv.in_channels)
            group.create_dataset("outChannels", data=conv.weight.shape[0])
            group.create_dataset("kernelSize", data=np.array(conv.weight.shape[2:]))
            group.create_dataset("stride", data=np.array(conv.stride))
            group.create_dataset("padding", data=np.array(conv.padding))
            group.create_dataset("dilation", data=np.array(conv.dilation))
            group.create_dataset("groups", data=conv.groups)
            group.create_dataset("weight", data=_stored(conv.weight))
        if population.bias is not None:
            group.create_dataset("bias", data=_stored(population.bias))
        _write_neuron(group, population.neuron)


def _check_loops(name: str, projection: Projection, loops: list[Projection]) -> None:
    """Refuses recurrence that a dense_rec layer has no place for, or that Lava runs wrongly."""
    synapses = [projection.synapse, *(p.synapse for p in loops)]
    if len(loops) > 1 or not all(isinstance(synapse, Dense) for synapse in synapses):
        raise NetworkError(f"{name}: netx holds one recurrent projection of a dense layer, itself dense, and no other.")
    if any(p.delay is not None for p in (projection, *loops)):
        raise NetworkError(
            f"{name}: delays in a recurrent layer; Lava's recurrent layer computes wrongly or fails with them. Drop the delays."
        )


def _write_neuron(group: h5py.Group, neuron: Neuron) -> None:
    if isinstance(neuron, Delta | SigmaDelta | Sigma):
        group.create_dataset("neuron/type", data=np.bytes_(b"SDNN"))
        group.create_dataset("neuron/activation", data=np.bytes_(b"relu"))
        group.create_dataset("neuron/vThMant", data=neuron.threshold)
        if isinstance(neuron, Sigma):
            group.create_dataset("neuron/sigma_output", data=True)
        return
    group.create_dataset("neuron/type", data=np.bytes_(b"CUBA"))
    group.create_dataset("neuron/iDecay", data=neuron.current_decay)
    group.create_dataset("neuron/vDecay", data=neuron.voltage_decay)
    group.create_dataset("neuron/vThMant", data=neuron.threshold)
    group.create_dataset("neuron/refDelay", data=1)
    group.create_dataset("neuron/gradedSpike", data=False)


def _stored(values: NDArray[Any]) -> NDArray[Any]:
    """As lava-dl writes them, float32, or as int32 where a float32 would round (beyond 2**24); the reader takes both."""
    return values.astype(np.float32) if np.abs(values.astype(np.int64)).max() <= 1 << 24 else values.astype(np.int32)


def encoded(name: str) -> bytes:
    """A population's name as a file holds it; refuses what would not come back."""
    try:
        raw = name.encode("utf-8")
    except UnicodeEncodeError:
        raise NetworkError(f"{name!r}: this name cannot be written as UTF-8; rename the population.") from None
    if len(raw) > MAX_TEXT or b"\0" in raw:
        raise NetworkError(
            f"{name[:40]!r}: a name of {len(raw)} bytes; a file holds 1..{MAX_TEXT} without zero bytes: rename the population."
        )
    return raw


def _write_extras(network: Network, file: h5py.File) -> None:
    group = file.create_group("qpsnn")
    group.create_dataset("input_bits", data=network.input_bits)
    if network.steps is not None:
        group.create_dataset("steps", data=network.steps)
    if network.readout is not None:
        group.create_dataset("readout", data=np.bytes_(str(network.readout).encode("ascii")))
        if isinstance(network.readout, Rate):
            group.create_dataset("classes", data=network.readout.classes)


# --- read --------------------------------------------------------------------------------------------------------------


def read(path: Path | str, *, as_lava: bool = False) -> Network:
    """Reads a netx file, also one that others wrote, into a :class:`Network`.

    Neurons of type CUBA and the older LOIHI, and SDNN (Delta in the input layer, Sigma where ``sigma_output`` stands, else
    SigmaDelta); a dense layer without neurons gets the stock reader's default integrator; a
    trailing ``average`` becomes the host's :class:`Rate` read-out; populations without a name are called ``type`` + index.

    Args:
        path: an HDF5 file.
        as_lava: ignore what the stock reader ignores in silence (refDelay > 1, gradedSpike, conv delays, wgtExp); without
            it such a file is refused, because it does not mean what Lava would run.

    Raises:
        FormatError: one sentence that names the file, the layer, what is wrong and what is allowed.
    """
    return _read(path, _Reader(Path(path), as_lava))


@dataclass(frozen=True)
class Finding:
    """What the stock reader ignores, cuts or runs otherwise without saying so.

    Args:
        layer: such as "layer 1 (conv)"; "file" for what is in none; the population's name for what the file itself does not tell.
        key: the dataset's name within the layer, such as "neuron/refDelay".
        what: what is there and what Lava makes of it, such as "has refDelay 2, which Lava ignores (it runs as 1)".
        way: what to do.
        read: "as_lava": only ``read(path, as_lava=True)`` takes the file; "refused": ``read`` does not take it at all; "taken": it
            does.
    """

    layer: str
    key: str
    what: str
    way: str
    read: Literal["as_lava", "refused", "taken"]


def survey(path: Path | str) -> tuple[Network, tuple[Finding, ...]]:
    """Reads a netx file as far as the stock reader would take it without a word, and lists all that it ignores.

    Beside what ``as_lava`` ignores: fractions are cut off, delays clamped at 62, layers of a type that Lava does not know
    skipped; redundant datasets that contradict the weights, and datasets that are not of the format, are listed.

    Args:
        path: an HDF5 file.

    Returns:
        the network that stock Lava would set up, and the findings in the order of the file.

    Raises:
        FormatError: as :func:`read`, for what is not ignored in silence.
    """
    reader = _Reader(Path(path), as_lava=True, survey=True)
    network = _read(path, reader)
    return network, tuple(reader.findings)


def _read(path: Path | str, reader: _Reader) -> Network:
    path = Path(path)
    with opened(path, "netx") as file:
        try:
            return reader.network(file)
        except NetworkError as error:
            raise FormatError(f"{path}: {error}") from None


@contextmanager
def opened(path: Path, kind: str) -> Iterator[h5py.File]:
    """The HDF5 file, to be read; whatever is wrong with it, then and in the block, becomes a FormatError of one sentence."""
    try:
        if path.is_dir():
            raise FormatError(f"{path} is a folder; a {kind} file is expected.")
        if path.exists() and not path.is_file():  # a pipe would block, a device never end
            raise FormatError(f"{path} is not a regular file; a {kind} file is expected.")
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise FormatError(f"{path}: there is no such file.") from None
    except PermissionError:
        raise FormatError(f"{path}: no permission to read it.") from None
    except OSError as error:
        raise FormatError(f"{path} is not a whole HDF5 file ({_reason(error)}); export it again.") from None
    with file:
        try:
            yield file
        except (OSError, RuntimeError, KeyError) as error:
            if isinstance(error, QpsnnError):
                raise
            raise FormatError(f"{path} is damaged ({_reason(error)}); export it again.") from None


Tree: TypeAlias = "dict[str, Tree | NDArray[Any] | str]"


def read_tree(path: Path | str, kind: str, start: str) -> Tree:
    """All groups and datasets below one group of an HDF5 file, with the checks that a netx file gets.

    Nothing is read before its place and size were checked: no links to elsewhere, no other files, at most MAX_BYTES in all, MAX_MEMBERS
    groups and datasets, MAX_DEPTH groups deep; numbers and texts only.

    Args:
        path: an HDF5 file.
        kind: what it is said to be, for messages, such as "NIR".
        start: a group of its root.

    Returns:
        groups as dicts, numbers as arrays (a scalar has the shape ()), one text as str, several as an array of str.

    Raises:
        FormatError: as :func:`read`.
    """
    path = Path(path)
    reader = _Reader(path, as_lava=False)
    members, space = 0, MAX_BYTES

    def below(group: h5py.Group, depth: int) -> Tree:
        nonlocal members, space
        members += len(group)
        if members > MAX_MEMBERS or depth > MAX_DEPTH:
            limit = f"{MAX_MEMBERS} groups and datasets" if members > MAX_MEMBERS else f"{MAX_DEPTH} groups in one another"
            raise FormatError(f"{path}: more than {limit}; a {kind} file needs less, and this one is not read any further.")
        found: Tree = {}
        for key in group:
            where = plain(str(group.name), 120)
            member = reader.member(group, key)
            if isinstance(member, h5py.Group):
                found[key] = below(member, depth + 1)
            elif isinstance(member, h5py.Dataset) and h5py.check_string_dtype(member.dtype):
                found[key] = reader.text(group, key, where) if member.shape == () else reader.texts(group, key, where)
            else:
                values = reader.values(group, key, where, room=space)
                assert values is not None
                space -= values.nbytes
                found[key] = values
        return found

    with opened(path, kind) as file:
        top = reader.group(file, start)
        if top is None:
            raise FormatError(f"{path} is an HDF5 file, but not a {kind} file: it has no group '{start}'.")
        return below(top, 1)


class _Reader:
    """The state of one reading: the file's name for messages, whether to be as lenient as Lava, and what that ignored.

    A survey goes on where ``read`` refuses what Lava takes without a word, and looks at redundant datasets, too.
    """

    def __init__(self, path: Path, as_lava: bool, survey: bool = False) -> None:
        self.path = path
        self.as_lava = as_lava
        self.survey = survey
        self.findings: list[Finding] = []

    def ignored(self, where: str, key: str, what: str, way: str) -> None:
        """What Lava ignores, and ``as_lava`` too; refused without it."""
        if not self.as_lava:
            raise FormatError(f"{self.path}: {where} {what}; {way}")
        self.found(where, key, what, way, "as_lava")

    def refused(self, where: str, key: str, what: str, way: str, message: str) -> None:
        """What Lava makes something else of, and ``read`` refuses in any case, with this message."""
        if not self.survey:
            raise FormatError(message)
        self.found(where, key, what, way, "refused")

    def found(self, where: str, key: str, what: str, way: str, read: Literal["as_lava", "refused", "taken"]) -> None:
        if self.survey:
            self.findings.append(Finding(where, key, what, way, read))

    def network(self, file: h5py.File) -> Network:
        layers = self.group(file, "layer")
        if layers is None:
            raise FormatError(f"{self.path} is an HDF5 file, but not a netx file: it has no group 'layer'.")
        if not 1 <= len(layers) <= MAX_LAYERS:
            raise FormatError(f"{self.path}: {len(layers)} layers; a netx file has 1..{MAX_LAYERS}.")
        populations: list[Population] = []
        projections: list[Projection] = []
        readout: Readout | None = None
        flattened = False
        for i in range(len(layers)):
            layer = self.group(layers, str(i))
            if layer is None:
                raise FormatError(
                    f"{self.path}: layer {i} of {len(layers)} is missing; they are numbered from 0 without gaps."
                )
            kind = self.text(layer, "type", f"layer {i}")
            where = f"layer {i} ({kind})"
            if readout is not None:
                raise FormatError(f"{self.path}: {where} follows an average layer; an average can only be the last.")
            if kind == "input":
                if i:
                    raise FormatError(f"{self.path}: {where} must be layer 0.")
                populations.append(self.input(layer, where))
            elif kind == "flatten":
                flattened = True
            elif kind == "average":
                readout = self.average(layer, where)
            elif kind in ("dense", "dense_rec", "conv"):
                synapse = self.conv(layer, where) if kind == "conv" else self.dense(layer, where)
                if not populations:
                    populations.append(self.implied_input(synapse, where))
                if isinstance(synapse, Conv) and flattened:
                    raise FormatError(f"{self.path}: {where} follows a flatten layer; a convolution needs (C, H, W).")
                source = populations[-1]
                name = self.name(layer, f"{kind}{i}", where)
                populations.append(self.population(layer, name, synapse, source, where))
                projections.append(Projection(source.name, name, synapse, self.delay(layer, synapse, where)))
                if kind == "dense_rec":
                    projections.append(Projection(name, name, self.recurrent(layer, where)))
                flattened = False
            else:
                message = (
                    f"{self.path}: {where} is of a type that is not read (Lava refuses or skips most others in silence); "
                    "known are input, flatten, dense, dense_rec, conv and a last average."
                )
                if kind in STOCK_TYPES:
                    raise FormatError(message)
                what = "is of a type that Lava does not know: it skips the layer"
                self.refused(where, "type", what, "write the layer as one that is known, or leave it out.", message)
                continue
            if self.survey:
                self.redundant(layer, kind, populations, where)
        if self.survey:
            self.unknown(file, "", ROOT_KEYS, "file")
        if not populations:
            raise FormatError(f"{self.path}: no layer with neurons or input.")
        extras = self.group(file, "qpsnn")
        signed = Network(tuple(populations), tuple(projections)).has_signed_input
        steps, bits = None, MESSAGE_BITS if signed and populations[0].neuron is None else 0
        if extras is not None:
            steps = self.integer(extras, "steps", "qpsnn", None)
            bits = self.integer(extras, "input_bits", "qpsnn", bits) or 0
            readout = self.readout(extras) or readout
        return Network(tuple(populations), tuple(projections), readout, bits, steps)

    # --- layers

    def input(self, layer: h5py.Group, where: str) -> Population:
        name = self.name(layer, "input", where)
        shape = self.shape(layer, where)
        if self.group(layer, "neuron") is None:
            return Population(name, shape)
        weight, bias = self.integer(layer, "weight", where, None), self.integer(layer, "bias", where, None)
        drive = None
        if weight is not None or bias is not None:
            drive = Drive(64 if weight is None else weight, bias or 0)
        neuron = self.neuron(layer, where)
        if isinstance(neuron, SigmaDelta | Sigma):  # Lava makes a Delta of whatever sigma-delta neuron the input has
            neuron = Delta(neuron.threshold)
        return Population(name, shape, neuron, drive=drive)

    def implied_input(self, synapse: Synapse, where: str) -> Population:
        """The input of a file that begins with a dense layer; a convolution's input size cannot be inferred."""
        if isinstance(synapse, Conv):
            raise FormatError(f"{self.path}: {where} is the first layer; without an input layer its input's size is unknown.")
        return Population("input", (synapse.weight.shape[1],))

    def dense(self, layer: h5py.Group, where: str, key: str = "weight") -> Dense:
        weight = self.integers(layer, key, where)
        if weight is None:
            raise FormatError(f"{self.path}: {where} has no {key}.")
        neurons = math.prod(self.shape(layer, where))
        if weight.ndim == 1 and weight.size % neurons == 0:
            weight = weight.reshape(neurons, -1)
        if weight.ndim != 2:
            raise FormatError(f"{self.path}: {where} has a {key} of shape {weight.shape}; expected (post, pre).")
        return Dense(weight)

    def recurrent(self, layer: h5py.Group, where: str) -> Dense:
        if "delay" in layer:
            raise FormatError(
                f"{self.path}: {where} has delays; Lava's recurrent layer computes wrongly or fails with them. Drop the delays."
            )
        return self.dense(layer, where, "weight_rec")

    def conv(self, layer: h5py.Group, where: str) -> Conv:
        weight = self.integers(layer, "weight", where)
        if weight is None:
            raise FormatError(f"{self.path}: {where} has no weight.")
        if weight.ndim == 5 and weight.shape[4] == 1:
            weight = weight[..., 0]
        if weight.ndim != 4:
            raise FormatError(f"{self.path}: {where} has a weight of shape {weight.shape}; expected (out, in/groups, ky, kx).")
        if "delay" in layer:
            what = "has delays, which Lava ignores for convolutions"
            self.ignored(where, "delay", what, "read it as Lava does (as_lava) to ignore them too.")
        pair = self.pair
        stride, padding, dilation = (
            pair(layer, "stride", where),
            pair(layer, "padding", where),
            pair(layer, "dilation", where),
        )
        groups = self.integer(layer, "groups", where, None)
        if groups is None:
            raise FormatError(f"{self.path}: {where} has no groups; Lava needs it.")
        return Conv(weight, stride, padding, dilation, groups)

    def population(self, layer: h5py.Group, name: str, synapse: Synapse, source: Population, where: str) -> Population:
        shape = self.shape(layer, where)
        if isinstance(synapse, Dense):
            shape = (math.prod(shape),)
        if self.group(layer, "neuron") is not None:
            neuron = self.neuron(layer, where)
        elif isinstance(synapse, Dense):
            neuron = DEFAULT_NEURON
        else:
            raise FormatError(f"{self.path}: {where} has no neuron; Lava gives a default to dense layers only.")
        bias = self.integers(layer, "bias", where)
        if bias is not None:
            bias = bias.reshape(-1)
            if bias.size == 1:
                bias = np.repeat(bias, shape[0])
        return Population(name, shape, neuron, bias)

    def average(self, layer: h5py.Group, where: str) -> Rate:
        return Rate(math.prod(self.shape(layer, where)))

    def delay(self, layer: h5py.Group, synapse: Synapse, where: str) -> NDArray[np.int32] | None:
        delay = self.integers(layer, "delay", where) if isinstance(synapse, Dense) else None
        if delay is None or not isinstance(synapse, Dense):
            return None
        post, pre = synapse.weight.shape
        if self.survey and delay.size and delay.max() > MAX_DELAY:
            what = f"has delays of up to {delay.max()} steps, which Lava clamps at {MAX_DELAY}"
            self.found(where, "delay", what, f"write delays of at most {MAX_DELAY} steps.", "refused")
            delay = np.clip(delay, 0, MAX_DELAY)
        if delay.size == 1:
            return np.repeat(delay.reshape(1, 1), post, axis=0)
        if delay.ndim == 1 and delay.size in (post, pre):
            return delay.reshape((post, 1) if delay.size == post else (1, pre))
        raise FormatError(
            f"{self.path}: {where} has {delay.shape} delays; expected one per target ({post}) or per source ({pre})."
        )

    def neuron(self, layer: h5py.Group, where: str) -> Neuron:
        group = self.group(layer, "neuron")
        assert group is not None
        kind = self.text(group, "type", where)
        if kind == "SDNN":
            return self.sigma_delta(group, where)
        if kind not in ("CUBA", "LOIHI"):
            raise FormatError(f"{self.path}: {where} has neurons of type {kind!r}; known are CUBA, LOIHI and SDNN.")
        if self.survey or not self.as_lava:
            for key, neutral in (("refDelay", 1), ("gradedSpike", 0), ("wgtExp", 0), ("weight_exp", 0)):
                value = self.integer(group, key, where, neutral)
                if value != neutral:
                    what = f"has {key} {value}, which Lava ignores (it runs as {neutral})"
                    self.ignored(where, f"neuron/{key}", what, AS_LAVA)
        values = {}
        for key in ("iDecay", "vDecay", "vThMant"):
            value = self.integer(group, key, where, None)
            if value is None:
                raise FormatError(f"{self.path}: {where} has no neuron/{key}.")
            values[key] = value
        try:
            return neuron_of(values["iDecay"], values["vDecay"], values["vThMant"])
        except NetworkError as error:
            raise FormatError(f"{self.path}: {where}: {error}") from None

    def sigma_delta(self, group: h5py.Group, where: str) -> SigmaDelta | Sigma:
        if self.survey or not self.as_lava:
            activation = self.text(group, "activation", where) if "activation" in group else "relu"
            if activation != "relu":
                what = f"has the activation {activation!r}, which Lava ignores (it runs as relu)"
                self.ignored(where, "neuron/activation", what, AS_LAVA)
            if self.integer(group, "sigma_output", where, 1) != 1:
                what = "has a sigma_output that is false, which Lava takes for true"
                self.ignored(where, "neuron/sigma_output", what, "read it as Lava does (as_lava) to take it so too.")
        if "sigma_output" in group:
            return Sigma()
        threshold = self.integer(group, "vThMant", where, None)
        if threshold is None:
            raise FormatError(f"{self.path}: {where} has no neuron/vThMant.")
        try:
            return SigmaDelta(threshold)
        except NetworkError as error:
            raise FormatError(f"{self.path}: {where}: {error}") from None

    def readout(self, extras: h5py.Group) -> Readout | None:
        if "readout" not in extras:
            return None
        kind = self.text(extras, "readout", "qpsnn")
        if kind == str(Voltage()):
            return Voltage()
        classes = self.integer(extras, "classes", "qpsnn", None)
        if kind == "rate" and classes is not None:
            return Rate(classes)
        raise FormatError(f"{self.path}: qpsnn/readout is {kind!r}; known are integrator and rate (with classes).")

    # --- what means nothing to Lava

    def redundant(self, layer: h5py.Group, kind: str, populations: list[Population], where: str) -> None:
        """Lists what says again what the weights say, and says it wrongly; and what is not of the format."""
        weight = self.member(layer, "weight")
        shape = tuple(weight.shape) if isinstance(weight, h5py.Dataset) and weight.shape is not None else ()
        expected: dict[str, tuple[int, ...]] = {}
        if kind == "flatten" and populations:
            expected["shape"] = (populations[-1].size,)
        elif kind in ("dense", "dense_rec") and len(populations) > 1:
            expected |= {"inFeatures": (populations[-2].size,), "outFeatures": (populations[-1].size,)}
        elif kind == "conv":
            groups = self.integer(layer, "groups", where, 1) or 1
            expected |= {"inChannels": (shape[1] * groups,), "outChannels": shape[:1], "kernelSize": shape[2:4]}
        for key, values in expected.items():
            said = self.integers(layer, key, where)
            if said is None:
                continue
            flat = tuple(int(n) for n in said.reshape(-1))
            if kind == "flatten":
                same = math.prod(flat) == values[0]
            else:  # older files have one number for both of a kernel's
                same = flat == values or (len(flat) == 1 and set(values) == set(flat))
            if not same:
                shown, right = (" x ".join(map(str, v)) or "nothing" for v in (flat[:4], values))
                what = f"is {shown}, but the weights say {right}; Lava and we go by the weights"
                self.found(where, key, what, "nothing follows from it; export the file again if in doubt.", "taken")
        self.unknown(layer, "", LAYER_KEYS, where)
        neuron = self.member(layer, "neuron")
        if isinstance(neuron, h5py.Group):
            self.unknown(neuron, "neuron/", NEURON_KEYS, where)

    def unknown(self, group: h5py.Group, prefix: str, known: set[str], where: str) -> None:
        strange = [key for key in islice(group, MAX_UNKNOWN + len(known)) if key not in known]
        for key in strange[:MAX_UNKNOWN]:
            what = "is not of the format; Lava and we do not look at it"
            self.found(where, prefix + key, what, "nothing follows from it.", "taken")

    # --- values

    def name(self, layer: h5py.Group, default: str, where: str) -> str:
        return self.text(layer, "name", where) if "name" in layer else default

    def shape(self, layer: h5py.Group, where: str) -> tuple[int, ...]:
        values = self.integers(layer, "shape", where)
        if values is None or not 1 <= values.size <= 3 or values.ndim > 1:
            raise FormatError(f"{self.path}: {where} needs a shape of one to three numbers.")
        shape = tuple(int(n) for n in values.reshape(-1))
        if any(n < 1 for n in shape) or math.prod(shape) > MAX_NEURONS:
            raise FormatError(
                f"{self.path}: {where} has the shape {shape}; sizes are positive and at most {MAX_NEURONS} neurons."
            )
        return shape if len(shape) == 3 else (math.prod(shape),)

    def pair(self, layer: h5py.Group, key: str, where: str) -> tuple[int, int]:
        values = self.integers(layer, key, where)
        if values is None or values.size not in (1, 2):
            raise FormatError(f"{self.path}: {where} needs {key} as one number or (y, x).")
        flat = [int(n) for n in values.reshape(-1)]
        return (flat[0], flat[-1])

    def integer(self, group: h5py.Group, key: str, where: str, default: int | None) -> int | None:
        values = self.integers(group, key, where)
        if values is None:
            return default
        if values.size != 1 and not (values.size and np.all(values == values.reshape(-1)[0])):
            raise FormatError(f"{self.path}: {where} has {values.size} values of {key}; the chip has one per layer.")
        return int(values.reshape(-1)[0])

    def integers(self, group: h5py.Group, key: str, where: str) -> NDArray[np.int32] | None:
        array = self.values(group, key, where)
        if array is None:
            return None
        if array.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                odd = array[~np.isfinite(array) | (array != np.rint(array))]
            if odd.size:
                what = f"holds {odd.size} values that are not whole numbers, the first is {odd[0]}"
                message = f"{self.path}: {where}: {key} {what}; Lava would cut the fractions off. Export integers."
                if not np.all(np.isfinite(odd)):
                    raise FormatError(message)
                inside = f"neuron/{key}" if (group.name or "").endswith("/neuron") else key
                self.refused(where, inside, f"{what}; Lava cuts the fractions off", "export integers.", message)
        if array.size and max(abs(int(array.min())), abs(int(array.max()))) > np.iinfo(np.int32).max:
            raise FormatError(f"{self.path}: {where}: {key} holds values beyond 32 bits.")
        return array.astype(np.int32)

    def text(self, group: h5py.Group, key: str, where: str) -> str:
        value = self.values(group, key, where, text=True)
        if value is None:
            raise FormatError(f"{self.path}: {where} has no {key}.")
        return self.decoded(value.reshape(-1)[0] if value.size else b"", key, where)

    def decoded(self, raw: Any, key: str, where: str) -> str:
        if isinstance(raw, str):
            raw = raw.encode("utf-8")
        if not isinstance(raw, bytes) or not 0 < len(raw) <= MAX_TEXT:
            raise FormatError(f"{self.path}: {where}: {key} must be a text of 1..{MAX_TEXT} bytes.")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"{self.path}: {where}: {key} is not UTF-8 text.") from None

    def group(self, parent: h5py.Group, key: str) -> h5py.Group | None:
        found = self.member(parent, key)
        if found is None:
            return None
        if not isinstance(found, h5py.Group):
            raise FormatError(f"{self.path}: {parent.name}/{key} is not a group.")
        return found

    def texts(self, group: h5py.Group, key: str, where: str) -> NDArray[np.str_]:
        """Several texts, read one after another: each may be long, and many places of a dataset can hold the same long one."""
        found = self.checked(group, key, where, text=True, most=MAX_MEMBERS, room=MAX_BYTES)
        assert found is not None
        texts = []
        for index in np.ndindex(found.shape):
            try:
                raw: Any = found[index]
            except Exception as error:
                raise self.damaged(error) from None
            texts.append(self.decoded(raw, key, where))
        return np.array(texts, dtype=np.str_).reshape(found.shape)

    def values(
        self, group: h5py.Group, key: str, where: str, text: bool = False, room: int = MAX_BYTES
    ) -> NDArray[Any] | None:
        """The values of one dataset, read only after every check of where they are and how many they are."""
        found = self.checked(group, key, where, text=text, most=1, room=room)
        if found is None:
            return None
        try:
            return np.asarray(found[()])
        except Exception as error:
            raise self.damaged(error) from None

    def checked(self, group: h5py.Group, key: str, where: str, *, text: bool, most: int, room: int) -> h5py.Dataset | None:
        """A dataset of numbers in at most ``room`` bytes, or of at most ``most`` texts; None where there is none."""
        found = self.member(group, key)
        if found is None:
            return None
        if not isinstance(found, h5py.Dataset):
            raise FormatError(f"{self.path}: {where}: {key} is not a dataset.")
        try:
            shape, size, dtype, stored = found.shape, found.size, found.dtype, found.id.get_storage_size()
            elsewhere = found.external or found.is_virtual
        except Exception as error:  # h5py raises anything over damaged metadata
            raise self.damaged(error) from None
        if elsewhere:
            raise FormatError(f"{self.path}: {where}: {key} keeps its values in another file, which is never followed.")
        if shape is None or size is None:
            raise FormatError(f"{self.path}: {where}: {key} is empty (an HDF5 null dataspace); values are expected.")
        if not text and dtype.kind not in "iubf":
            raise FormatError(f"{self.path}: {where}: {key} is of type {dtype}; numbers are expected.")
        needed = max(size, math.prod(found.chunks or ())) * dtype.itemsize  # a chunk is unpacked as a whole
        if needed > room or (text and size > most):
            limit = f"at most {room} bytes" if not text else "one text" if most == 1 else f"at most {most} texts"
            raise FormatError(
                f"{self.path}: {where}: {key} of shape {shape} ({dtype}) is too large to be read; {limit} is allowed."
            )
        if needed > max(FREE_BYTES, MAX_RATIO * stored):
            raise FormatError(
                f"{self.path}: {where}: {key} claims {needed} bytes, but the file holds {stored} for it, "
                f"less than one in {MAX_RATIO}; refused as a decompression bomb. Write it uncompressed."
            )
        return found

    def member(self, parent: h5py.Group, key: str) -> h5py.Group | h5py.Dataset | None:
        try:
            link = parent.get(key, getlink=True)
            found = parent[key] if isinstance(link, h5py.HardLink) else None
        except Exception as error:
            raise self.damaged(error) from None
        if link is not None and found is None:
            raise FormatError(
                f"{self.path}: {plain(f'{parent.name}/{key}', 200)} is a link to elsewhere, which is never followed."
            )
        return found

    def damaged(self, error: Exception) -> FormatError:
        return FormatError(f"{self.path} is damaged ({_reason(error)}); export it again.")


def _reason(error: BaseException) -> str:
    text = str(error.args[-1] if error.args else error).strip()
    return " ".join(text.split())[:200]
