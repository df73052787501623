"""Chips as data: limits and constants of the cost model, each with its unit, its source and a tag.

The tags say how far a number can be trusted: ``published`` (paper or vendor brief), ``source`` (read in public source code or
printed by the vendor's tools), ``inferred`` (fitted to what those tools printed), ``assumed`` (ours).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from netx_export.errors import ConfigError, FormatError, MissingError

STATEMENT = "a model of public evidence, not Intel's compiler; not run on hardware"
MAX_FILE_BYTES = 1 << 18  # a chip file is some kilobytes; anything larger is refused before it is read

Tag = Literal["published", "source", "inferred", "assumed"]


@dataclass(frozen=True)
class Limit:
    """What one core (or chip) holds of one resource.

    Args:
        name: the resource: a field of :class:`mapping.cost.Usage`, or ``cores_per_chip``.
        value: at most this many; at least 1.
        unit: of what, per what.
        source: where the number stands.
        tag: published, source, inferred or assumed.
    """

    name: str
    value: int
    unit: str
    source: str
    tag: str


@dataclass(frozen=True)
class Parameter:
    """A constant (whole number) or a rule (word) of the chip's cost model, with the same evidence as a :class:`Limit`."""

    name: str
    value: int | str
    unit: str
    source: str
    tag: str


@dataclass(frozen=True)
class Loihi2Cost:
    """Constants of the cost model ``loihi2`` as plain numbers; :mod:`mapping.cost` has the formulas.

    Args:
        word_bits: bits of a memory word.
        header_bits: p, bits of a list beside its synapses.
        dense_index_bits: bits of a dense synapse beside its weight.
        smallest_part: channels; power-of-two parts below it share an AxonMap entry with the next.
        axon_mem_per_destination: AxonMem entries per AxonMap entry and destination core (an estimate).
    """

    word_bits: int
    header_bits: int
    dense_index_bits: int
    smallest_part: int
    axon_mem_per_destination: int


@dataclass(frozen=True)
class Loihi1Cost:
    """Constants of the cost model ``loihi1`` as plain numbers; :mod:`mapping.cost` has the formulas.

    Args:
        word_bits: bits of a memory word.
        chunk_synapses: synapses of a full chunk of a list.
        chunk_bits: bits of a chunk beside its synapses.
        smallest_index_bits, largest_index_bits: widths that the index of a synapse can have.
        cross_chip_slots: slots of an out-axon whose target is on another chip.
        base_limit: an axon's base is below it; what is beyond goes into the indices of its list.
    """

    word_bits: int
    chunk_synapses: int
    chunk_bits: int
    smallest_index_bits: int
    largest_index_bits: int
    cross_chip_slots: int
    base_limit: int


@dataclass(frozen=True)
class Chip:
    """A chip as the mapper sees it; frozen, comparable, hashable.

    Args:
        name: what :func:`load_chip` found it by.
        profile: the name, and the limits that the caller changed.
        model: "loihi1" or "loihi2", which formulas of :mod:`mapping.cost` count.
        summary: one line for a list of chips.
        limits: of a core, and ``cores_per_chip``.
        parameters: constants and rules of the cost model.
    """

    name: str
    profile: str
    model: Literal["loihi1", "loihi2"]
    summary: str
    limits: tuple[Limit, ...]
    parameters: tuple[Parameter, ...]

    @cached_property
    def core_limits(self) -> dict[str, int]:
        """Resource -> what one core holds of it, in the order of the file."""
        return {limit.name: limit.value for limit in self.limits if limit.name != "cores_per_chip"}

    @cached_property
    def cores_per_chip(self) -> int:
        """Cores that one chip offers to networks."""
        return next(limit.value for limit in self.limits if limit.name == "cores_per_chip")

    def limit(self, resource: str) -> Limit:
        """The limit of that name; KeyError where this chip has none."""
        return {limit.name: limit for limit in self.limits}[resource]

    def rule(self, name: str) -> int | str:
        """The value of the parameter of that name; KeyError where this chip has none."""
        return self._values[name]

    @cached_property
    def _values(self) -> dict[str, int | str]:
        return {parameter.name: parameter.value for parameter in self.parameters}

    @cached_property
    def cost(self) -> Loihi1Cost | Loihi2Cost:
        """The constants of its cost model."""
        kind = Loihi1Cost if self.model == "loihi1" else Loihi2Cost
        return kind(**{name: int(self._values[name]) for name in kind.__dataclass_fields__})

    @property
    def evidence(self) -> tuple[str, ...]:
        """The sentence that a report must carry, then one line per number and rule: value, unit, tag, source."""
        entries: tuple[Limit | Parameter, ...] = (*self.limits, *self.parameters)
        return (STATEMENT, *(f"{n.name} = {n.value} {n.unit} [{n.tag}] {n.source}" for n in entries))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; :func:`chip_from_dict` gives back an equal chip."""

        def table(entries: Iterable[Limit | Parameter]) -> dict[str, Any]:
            return {e.name: {"value": e.value, "unit": e.unit, "tag": e.tag, "source": e.source} for e in entries}

        return {
            "name": self.name,
            "profile": self.profile,
            "model": self.model,
            "summary": self.summary,
            "limits": table(self.limits),
            "parameters": table(self.parameters),
        }


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Evidence(_Strict):
    unit: str = Field(min_length=1)
    tag: Tag
    source: str = Field(min_length=1)


class _Limit(_Evidence):
    value: int = Field(ge=1, le=1 << 40)


class _Constant(_Evidence):
    value: int = Field(ge=0, le=1 << 20)


class _Positive(_Evidence):
    value: int = Field(ge=1, le=1 << 20)


class _LayersPerCore(_Evidence):
    value: int = Field(ge=1, le=64)


class _TileWidth(_Evidence):
    value: Literal["power-of-two", "halved", "free"]


class _DenseLists(_Evidence):
    value: Literal["dense", "sparse", "cheapest"]


class _DenseSplit(_Evidence):
    value: Literal["even", "doubling"]


class _PerGroup(_Evidence):
    value: Literal["per-group"]


class _Sum(_Evidence):
    value: Literal["sum"]


class _ConvIndex(_Evidence):
    value: Literal["largest-index"]


class _Loihi2Limits(_Strict):
    cores_per_chip: _Limit
    neurons: _Limit
    neuron_groups: _Limit
    axon_in: _Limit
    axon_map: _Limit
    synapse_words: _Limit
    pool: _Limit


class _Loihi2Parameters(_Strict):
    word_bits: _Positive
    header_bits: _Constant
    dense_index_bits: _Constant
    smallest_part: _Positive
    axon_mem_per_destination: _Constant
    widest_conv: _Positive
    tile_width: _TileWidth
    dense_split: _DenseSplit
    layers_per_core: _LayersPerCore
    dense_lists: _DenseLists
    mesh_width: _Positive
    cores_per_tile: _Positive
    grouped_lists: _PerGroup
    several_targets: _Sum


class _Loihi1Limits(_Strict):
    cores_per_chip: _Limit
    neurons: _Limit
    neuron_groups: _Limit
    axon_in: _Limit
    axon_out: _Limit
    synapse_words: _Limit
    list_words: _Limit


class _Loihi1Parameters(_Strict):
    word_bits: _Positive
    chunk_synapses: _Positive
    chunk_bits: _Constant
    smallest_index_bits: _Constant
    largest_index_bits: _Constant
    cross_chip_slots: _Positive
    tile_width: _TileWidth
    dense_split: _DenseSplit
    layers_per_core: _LayersPerCore
    dense_lists: _DenseLists
    mesh_width: _Positive
    cores_per_tile: _Positive
    grouped_lists: _PerGroup
    conv_index: _ConvIndex
    base_limit: _Positive


class _File(_Strict):
    name: str = Field(min_length=1)
    profile: str = Field(default="", description="the name, unless limits were changed")
    summary: str = Field(min_length=1)


class _Loihi2File(_File):
    model: Literal["loihi2"]
    limits: _Loihi2Limits
    parameters: _Loihi2Parameters


class _Loihi1File(_File):
    model: Literal["loihi1"]
    limits: _Loihi1Limits
    parameters: _Loihi1Parameters


_FILE: TypeAdapter[_Loihi1File | _Loihi2File] = TypeAdapter(Annotated[_Loihi1File | _Loihi2File, Field(discriminator="model")])


def chip_from_dict(data: object, where: str = "chip") -> Chip:
    """The chip that a parsed TOML or JSON table describes.

    Args:
        data: as :meth:`Chip.to_dict` makes it; ``profile`` may be missing.
        where: what an error calls the source, such as the file's name.

    Raises:
        FormatError: unknown or missing key, wrong type, value out of range, with the field's name.
    """
    try:
        parsed = _FILE.validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = [str(part) for part in first["loc"] if part not in ("loihi1", "loihi2")]
        message = {"extra_forbidden": "unknown key", "missing": "is missing"}.get(first["type"], first["msg"])
        if first["type"] == "union_tag_not_found":
            message = "the key 'model' is missing; it is 'loihi1' or 'loihi2'"
        field = ".".join(path) or "model"
        raise FormatError(f"{where}: {field}: {message}; see mapping/chips/loihi2.toml for a complete example.") from None
    limits = [(name, getattr(parsed.limits, name)) for name in type(parsed.limits).model_fields]
    parameters = [(name, getattr(parsed.parameters, name)) for name in type(parsed.parameters).model_fields]
    return Chip(
        name=parsed.name,
        profile=parsed.profile or parsed.name,
        model=parsed.model,
        summary=parsed.summary,
        limits=tuple(Limit(n, e.value, e.unit, e.source, e.tag) for n, e in limits),
        parameters=tuple(Parameter(n, e.value, e.unit, e.source, e.tag) for n, e in parameters),
    )


def chip_names() -> tuple[str, ...]:
    """Names of the chips that ship with this package, sorted."""
    files = (resources.files("mapping") / "chips").iterdir()
    return tuple(sorted(f.name[: -len(".toml")] for f in files if f.name.endswith(".toml")))


def load_chip(name_or_path: str | Path, limits: Mapping[str, int] | None = None) -> Chip:
    """A chip by name, or from the user's own TOML file, with limits changed where asked.

    Args:
        name_or_path: one of :func:`chip_names`, or the path of a file of the same form.
        limits: resource -> value that replaces the file's; tagged "assumed" from then on.

    Raises:
        MissingError: there is no such chip and no such file.
        FormatError: the file is too large, not TOML, or not of the form (the field is named).
        ConfigError: ``limits`` names a resource that the chip does not have, or a value below 1.
    """
    name = str(name_or_path)
    if name in chip_names():
        chip = _parse((resources.files("mapping") / "chips" / f"{name}.toml").read_bytes(), f"{name}.toml")
    else:
        path = Path(name_or_path)
        if not path.is_file():
            known = ", ".join(chip_names())
            raise MissingError(f"there is no chip {name!r} and no such file; known are {known}, or give the path of your own.")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise FormatError(f"{path.name}: {size} bytes; a chip file has at most {MAX_FILE_BYTES}.")
        chip = _parse(path.read_bytes(), path.name)
    return _with_limits(chip, limits or {})


def allow(chip: Chip, *, free_tiles: bool = False, share_cores: bool = False, sparse: bool = False) -> Chip:
    """The chip with rules relaxed that no public tool was seen to relax; each is tagged "assumed" and says so in its source.

    Args:
        chip: the profile; it comes back as it is where nothing is asked for.
        free_tiles: any width, height and number of channels a slice, and the smallest number of cores for dense layers.
        share_cores: as many slices on a core as it has neuron groups.
        sparse: dense projections store their non-zero weights only.
    """
    changes: dict[str, tuple[int | str, str]] = {}
    if free_tiles:
        changes["tile_width"] = ("free", "free tiles: assumed legal, no public compiler was seen to make them")
        changes["dense_split"] = ("even", "free tiles: the smallest number of cores that is legal, assumed legal")
    if share_cores:
        groups = chip.core_limits["neuron_groups"]
        changes["layers_per_core"] = (groups, "shared cores: assumed legal, as many slices as neuron groups")
    if sparse:
        changes["dense_lists"] = ("sparse", "sparse lists: assumed legal, only non-zero weights are stored")
    asked = ("free tiles", free_tiles), ("shared cores", share_cores), ("sparse lists", sparse)
    words = ", ".join(word for word, wanted in asked if wanted)
    if not words:
        return chip
    parameters = tuple(
        replace(n, value=changes[n.name][0], source=changes[n.name][1], tag="assumed") if n.name in changes else n
        for n in chip.parameters
    )
    joint = ", " if " with " in chip.profile else " with "
    return replace(chip, parameters=parameters, profile=f"{chip.profile}{joint}{words}")


def _parse(content: bytes, where: str) -> Chip:
    try:
        data = tomli.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomli.TOMLDecodeError) as error:
        raise FormatError(f"{where}: not a TOML file: {error}.") from None
    return chip_from_dict(data, where)


def _with_limits(chip: Chip, limits: Mapping[str, int]) -> Chip:
    if not limits:
        return chip
    known = {limit.name for limit in chip.limits}
    for name, value in limits.items():
        if name not in known:
            raise ConfigError(f"{chip.name} has no limit {name!r}; it has {', '.join(sorted(known))}.")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"limit {name} is {value!r}; it must be a whole number of at least 1.")
    given = {"source": "given by the caller", "tag": "assumed"}
    changed = tuple(replace(n, value=limits[n.name], **given) if n.name in limits else n for n in chip.limits)
    asked = ", ".join(f"{name}={limits[name]}" for name in sorted(limits))
    return replace(chip, limits=changed, profile=f"{chip.name} with {asked}")
