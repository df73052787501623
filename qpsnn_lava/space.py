"""The file of a sweep: TOML, parsed once into a frozen :class:`Space`, as strictly as an experiment.

name = "widths"                      # of the sweep and its folder
base = "digits"                      # an experiment, by name or path
trials = 40
objectives = ["accuracy", "cores"]   # several: a Pareto front

[set]                                # fixed values, keys as in --set
train.epochs = 5

[space]                              # what varies
prune.keep = { low = 0.3, high = 0.8 }
network.0.channels = [16, 24, 32]
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tomli
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import ErrorDetails

from netx_export.errors import ConfigError, FormatError
from qpsnn_lava.config import Experiment, ended, experiment_names, load_experiment, near_miss, shown, to_toml, toml_value

MAX_FILE_BYTES = 1 << 20
MAX_TRIALS = 100_000
MAX_WHOLE = 2**53  # the sampler keeps them in 64-bit floats
MAX_CHOICES = 1000  # of all keys together
OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {
    "accuracy": "maximize",
    "size_mb": "minimize",
    "cores": "minimize",
    "synaptic_ops": "minimize",
}
"""What a trial is judged by, under the names of report.json, and its direction."""

Number: TypeAlias = int | float
Value: TypeAlias = bool | int | float | str | tuple[Number, ...]


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Range(_Section):
    """A range of numbers: of whole ones where ``low`` and ``high`` are whole numbers, else of real ones.

    Args:
        low, high: both ends belong to it; low < high.
        log: drawn evenly in the logarithm; then low > 0, and no step.
        step: the values are low, low + step, ...; left out: 1 between whole numbers, none between real ones.
    """

    low: Number
    high: Number
    log: bool = False
    step: Number | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Range:
        if any(isinstance(number, int) and abs(number) > MAX_WHOLE for number in (self.low, self.high, self.step)):
            raise ValueError("whole numbers beyond 2**53 have no place in a range; list them as choices")
        if not self.low < self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}; low must be below high")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}, and log = true needs one above 0")
        if self.step is not None:
            if self.log:
                raise ValueError("both log and step are set; leave one of them out")
            if not 0 < _exact(self.step) <= _exact(self.high) - _exact(self.low):
                raise ValueError(f"step is {self.step}; it must be above 0 and at most high - low")
            if self.whole and not isinstance(self.step, int):
                raise ValueError(f"step is {self.step} between whole numbers; it must be a whole number, or low a real one")
        return self

    @property
    def whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def count(self) -> int | None:
        """How many values it has; None for a continuum."""
        step = self.step or (1 if self.whole and not self.log else None)
        return None if step is None else (_exact(self.high) - _exact(self.low)) // _exact(step) + 1

    def value(self, i: int) -> Number:
        """Its i-th value, low + i * step, computed in decimals: 0.1 + 2 * 0.1 = 0.3."""
        exact = _exact(self.low) + i * _exact(self.step or 1)
        return int(exact) if self.whole else float(exact)


def _exact(number: Number) -> Fraction:
    """The decimal number that was written."""
    return Fraction(repr(number))


def _choices(value: object) -> object:
    """TOML arrays are lists; the parsed axis holds tuples."""
    return tuple(tuple(entry) if isinstance(entry, list) else entry for entry in value) if isinstance(value, list) else value


def _kind(axis: object) -> str:
    return "range" if isinstance(axis, dict | Range) else "choices"


Choices: TypeAlias = Annotated[tuple[Value, ...], BeforeValidator(_choices), Field(min_length=1)]
Axis: TypeAlias = Choices | Range
_Axis: TypeAlias = Annotated[Annotated[Choices, Tag("choices")] | Annotated[Range, Tag("range")], Discriminator(_kind)]


class Space(_Section):
    """A whole sweep, checked against its experiment.

    Args:
        name: of the sweep and its folder: letters, digits, dot, dash, underscore, 58 at most, the first a letter or digit.
        base: the experiment that is varied: a built-in name, or a path (from the folder of the sweep's file).
        trials: how many, by all workers together, 1..100000; left out only with the grid: all its points.
        sampler: "tpe" (tree-structured Parzen estimator, learns from the trials before), "random" or "grid" (every point, in
            order, the last key fastest; a range needs a step there).
        seed: of the sampler, 0..2**63 - 1.
        objectives: "accuracy" (integer, of the validation set), "size_mb", "cores", "synaptic_ops": one, or several for a front.
        patience: seconds, 1..86400, that a worker may be silent before its trial is given to another.
        set: fixed values by key.
        space: what varies, by key.
    """

    name: Annotated[str, Field(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,57}\z")]
    base: Annotated[str, Field(min_length=1)]
    trials: Annotated[int, Field(ge=1, le=MAX_TRIALS)] | None = None
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    objectives: Annotated[
        tuple[Literal["accuracy", "size_mb", "cores", "synaptic_ops"], ...], BeforeValidator(_choices), Field(min_length=1)
    ] = ("accuracy",)
    patience: Annotated[float, Field(ge=1, le=86_400)] = 120.0
    set: dict[str, Value] = {}
    space: Annotated[dict[str, _Axis], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Space:
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives lists one twice: {', '.join(self.objectives)}")
        if "name" in self.set or "name" in self.space:
            raise ValueError("name cannot be set or varied: each trial is named after the sweep")
        twice = sorted(self.set.keys() & self.space.keys())
        if twice:
            raise ValueError(f"{twice[0]} stands in both [set] and [space]; leave it out of one")
        for key, axis in self.space.items():
            if not isinstance(axis, Range):
                texts = [toml_value(value) for value in axis]
                double = next((text for i, text in enumerate(texts) if text in texts[:i]), None)
                if double is not None:
                    raise ValueError(f"space.{key} lists {double} twice")
        listed = sum(len(axis) for axis in self.space.values() if not isinstance(axis, Range))
        if listed > MAX_CHOICES:
            raise ValueError(f"[space] lists {listed} choices; at most {MAX_CHOICES} fit, so take a range for some key")
        if self.sampler == "grid":
            self._check_grid()
        elif self.trials is None:
            raise ValueError(f"trials is missing; it must be {_ALLOWED['trials']}")
        return self

    def _check_grid(self) -> None:
        for key, axis in self.space.items():
            if isinstance(axis, Range) and axis.count() is None:
                raise ValueError(
                    f"space.{key} is a range without a step, which has no grid; give it a step, or list its values"
                )
        points = grid_size(self)
        if points > MAX_TRIALS:
            raise ValueError(
                f"the grid has {points} points; at most {MAX_TRIALS} fit, so take larger steps, or another sampler"
            )


def grid_size(space: Space) -> int:
    """Points of the grid: the product of the numbers of values of all keys."""
    return math.prod((axis.count() or 0) if isinstance(axis, Range) else len(axis) for axis in space.space.values())


def grid_points(space: Space) -> Iterator[dict[str, Value]]:
    """The points of the grid in order, the last key fastest."""
    axes = [
        tuple(axis.value(i) for i in range(axis.count() or 0)) if isinstance(axis, Range) else axis
        for axis in space.space.values()
    ]
    return (dict(zip(space.space, point, strict=True)) for point in itertools.product(*axes))


def total_trials(space: Space, trials: int | None = None) -> int:
    """How many trials the sweep has: ``trials`` where given, else the file's, at most the points of a grid.

    Raises:
        ConfigError: for a number that is not in 1..100000.
    """
    if trials is not None and not 1 <= trials <= MAX_TRIALS:
        raise ConfigError(f"--trials is {trials}; it must be {_ALLOWED['trials']}.")
    wanted = trials or space.trials
    if space.sampler != "grid":
        assert wanted is not None
        return wanted
    return min(wanted or MAX_TRIALS, grid_size(space))


def load_space(path: Path) -> Space:
    """A sweep from a TOML file of at most 1 MiB; every value of every key is tried on the experiment.

    A value is tried with the first values of the other keys.

    Raises:
        FormatError: where the file cannot be read or is not TOML.
        ConfigError: for an unknown key or value, naming file, field, value, what is allowed and a near miss.
    """
    tree = read_tree(path, "a sweep")
    for section in ("set", "space"):
        if isinstance(tree.get(section), dict):
            tree[section] = dict(flat_keys(tree[section]))
    try:
        space = Space.model_validate(tree)
    except ValidationError as error:
        details = error.errors(include_url=False)
        first = min(details, key=lambda detail: (detail["type"] != "extra_forbidden", len(_location(detail))))
        raise ConfigError(f"{path}: {ended(_explain(first, tree))}") from None
    if space.base not in experiment_names() and (path.parent / space.base).is_file():
        space = space.model_copy(update={"base": str(path.parent / space.base)})
    first_values = {key: _tried(axis)[0] for key, axis in space.space.items()}
    try:
        for key, axis in space.space.items():
            for value in _tried(axis):
                experiment_of(space, {**first_values, key: value})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return space


def experiment_of(space: Space, values: Mapping[str, Value], trial: int = 0) -> Experiment:
    """The experiment of a trial, named after the sweep and the trial: ``widths-0007``.

    Raises:
        ConfigError: where the values contradict each other.
    """
    overrides = [f"{key}={toml_value(value)}" for key, value in {**space.set, **values}.items()]
    return load_experiment(space.base, [*overrides, f'name="{space.name}-{trial:04d}"'])


def fingerprint(space: Space) -> dict[str, str]:
    """What all workers of a sweep must have equal, by its name in a message: of two sweeps that are equal here, any trial of one
    is a trial of the other.  The experiment is held as it resolves, so that another version of it is noticed.
    """
    axes = {key: axis.model_dump() if isinstance(axis, Range) else axis for key, axis in space.space.items()}
    base = load_experiment(space.base, [f"{key}={toml_value(value)}" for key, value in space.set.items()])
    return {
        "experiment": to_toml(base),
        "space": json.dumps(axes),
        "sampler": space.sampler,
        "seed": str(space.seed),
        "objectives": ", ".join(space.objectives),
        "patience": repr(space.patience),
    }


def _tried(axis: Axis) -> tuple[Value, ...]:
    return (axis.low, axis.high) if isinstance(axis, Range) else axis


def read_tree(path: Path, what: str) -> dict[str, Any]:
    """A TOML file of at most 1 MiB; ``what`` it should be, for messages.

    Raises:
        FormatError: where the file cannot be read, is too large or is not TOML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FormatError(f"{str(path)!r} cannot be read as {what} ({reason}).") from None
    if len(content) > MAX_FILE_BYTES:
        raise FormatError(f"{path} is larger than {MAX_FILE_BYTES} bytes, too large for {what}.")
    try:
        return tomli.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not TOML: {error}.") from None


def flat_keys(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """``prune.keep = ...`` is a table in a table to TOML, and one key to us; a range is where ``low`` or the like stands."""
    for key, value in table.items():
        here = (*above, key)
        if isinstance(value, dict) and not value.keys() & Range.model_fields.keys():
            yield from flat_keys(value, here)
        else:
            yield ".".join(here), value


def _location(detail: ErrorDetails) -> tuple[str, ...]:
    """The path of a field: of a whole list, not of an entry, and without the kind of the axis that pydantic puts in between."""
    raw = tuple(str(part) for part in detail["loc"])
    if raw[:1] == ("space",):
        return raw[:2] + (raw[3:4] if raw[2:3] == ("range",) else ())
    return raw[:2] if raw[:1] == ("set",) else raw[:1]


_ALLOWED = {
    "name": "1..58 letters, digits, dots, dashes or underscores, the first a letter or digit (it names a folder)",
    "base": "the name or path of an experiment",
    "trials": f"a whole number in 1..{MAX_TRIALS}",
    "sampler": 'one of "tpe", "random", "grid"',
    "seed": "a whole number in 0..9223372036854775807",
    "objectives": f"a list of some of {', '.join(OBJECTIVES)}",
    "patience": "a number of seconds from 1 to 86400",
    "set": "a section of values by key, such as train.epochs = 5",
    "space": "a section of at least one key, such as prune.keep = [0.4, 0.5]",
    "low": "a number",
    "high": "a number",
    "log": "true or false",
    "step": "a number",
}


def _explain(detail: ErrorDetails, tree: dict[str, Any]) -> str:
    """One sentence, without the full stop: field, value, what is allowed, a near miss."""
    kind, location = detail["type"], _location(detail)
    field = ".".join(location)
    if kind == "value_error":
        return f"{field}: {detail['ctx']['error']}" if field else str(detail["ctx"]["error"])
    if kind == "extra_forbidden":
        owner, names = ("a range", Range.model_fields) if location[0] == "space" else ("a sweep", Space.model_fields)
        return f"{field} is unknown; {owner} has {', '.join(names)}{near_miss(location[-1], tuple(names))}"
    value: Any = tree
    for part in location:
        value = value.get(part) if isinstance(value, dict) else None
    if location[0] == "space" and len(location) == 2:
        allowed = "a list of choices (numbers, texts, true, false, lists of numbers) or { low, high, log, step }"
    elif location[0] == "set" and len(location) == 2:
        allowed = "a number, a text, true, false or a list of numbers"
    else:
        allowed = _ALLOWED[location[-1]]
    if kind == "missing":
        return f"{field} is missing; it must be {allowed}"
    options = ("tpe", "random", "grid") if field == "sampler" else tuple(OBJECTIVES) if field == "objectives" else ()
    return f"{field} is {shown(value) if value != {} else 'empty'}; it must be {allowed}{near_miss(detail['input'], options)}"
