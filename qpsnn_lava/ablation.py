"""The plan of an ablation: TOML, parsed once into a frozen :class:`Plan`, as strictly as an experiment.

name = "weights"                     # of the ablation and its folder
base = "digits"                      # an experiment, by name or path
seeds = [0, 1, 2]

[set]                                # in all runs, keys as in --set
train.epochs = 5

[studies.grid]                       # a study: every combination of its axes' settings
question = "Does rescaling help?"
baseline = { scale = "vanilla" }     # what the other settings of an axis are compared with

[studies.grid.axes]                  # AXIS.SETTING = what it sets
scale.vanilla = { quantise.gamma = "none" }
scale.rescaw = { quantise.gamma = "mean_abs" }
bits.2 = { quantise.bits = 2 }
bits.4 = { quantise.bits = 4 }
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from netx_export.errors import ConfigError
from qpsnn_lava.config import (
    Experiment,
    Lava,
    Map,
    PoolLayer,
    Prune,
    Quantise,
    Train,
    ended,
    experiment_names,
    load_experiment,
    near_miss,
    shown,
    to_toml,
    toml_value,
)
from qpsnn_lava.space import Value, flat_keys, read_tree

MAX_RUNS = 10_000
MAX_SEEDS = 1000
SEED_LIMIT = 1 << 63

Overrides: TypeAlias = Mapping[str, Value]
Stage: TypeAlias = Literal["float", "quantised", "run"]


@dataclass(frozen=True)
class Study:
    """Some axes, all combinations of their settings, and what they are compared with.

    Args:
        name: of the study, in tables and file names.
        question: that it answers, one line.
        fixed: values in all its runs, by key; before those of the settings.
        axes: by axis and setting, values by key; a setting without values is the experiment as it is.
        baseline: by axis, the setting that the others of that axis are compared with, all other axes equal.
        seeds: of its runs.
    """

    name: str
    question: str
    fixed: Overrides
    axes: Mapping[str, Mapping[str, Overrides]]
    baseline: Mapping[str, str]
    seeds: tuple[int, ...]

    def points(self) -> Iterator[dict[str, str]]:
        """Every combination, by axis the setting; the last axis fastest."""
        return (dict(zip(self.axes, point, strict=True)) for point in itertools.product(*self.axes.values()))


@dataclass(frozen=True)
class Plan:
    """An ablation.

    Args:
        name: of the ablation and its folder: letters, digits, dot, dash, underscore, 58 at most, the first a letter or digit.
        base: the experiment that is varied: a built-in name, or a path (from the folder of the plan's file).
        fixed: values in all runs, by key; ``train.threads`` is 1 where nothing else is said.
        studies: in order.
    """

    name: str
    base: str
    fixed: Overrides
    studies: tuple[Study, ...]


@dataclass(frozen=True)
class Run:
    """A study's point with a seed, and the experiment that it stands for."""

    study: str
    settings: Mapping[str, str]
    seed: int
    experiment: Experiment

    @property
    def key(self) -> str:
        """Of its last job; runs of several studies that are the same experiment have one."""
        return _key("run", self.experiment)


@dataclass(frozen=True)
class Job:
    """A piece of work that other pieces build on: a training phase that runs share, or the rest of a run.

    Args:
        key: stage and hash of the experiment; names its folder.
        stage: the training phase that it ends with; "run": fine-tuned, frozen and read on the test set.
        experiment: for a phase, one with all that does not decide the phase at its default.
        after: key of the phase that it goes on from.
    """

    key: str
    stage: Stage
    experiment: Experiment
    after: str | None = None

    @property
    def epochs(self) -> int:
        """Of training."""
        train, order = self.experiment.train, self.experiment.prune.order
        if self.stage == "float":
            return train.epochs
        return (
            train.quantised_epochs
            if self.stage == "quantised"
            else train.finetune_epochs + (0 if order == "qp" else train.quantised_epochs)
        )


def load_plan(path: Path) -> Plan:
    """A plan from a TOML file of at most 1 MiB; every run of it is tried as an experiment.

    Raises:
        FormatError: where the file cannot be read or is not TOML.
        ConfigError: for an unknown key or value, or settings that make no difference, naming file, field, value and what is allowed.
    """
    tree = read_tree(path, "a plan")
    try:
        plan = _plan(tree, path.parent)
        for study in plan.studies:
            _try(plan, study)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return plan


def runs_of(plan: Plan) -> tuple[Run, ...]:
    """All runs, study by study, in each seed by seed."""
    return tuple(
        Run(study.name, point, seed, experiment_of(plan, study, point, seed))
        for study in plan.studies
        for seed in study.seeds
        for point in study.points()
    )


def experiment_of(plan: Plan, study: Study, point: Mapping[str, str], seed: int) -> Experiment:
    """The experiment of a study's point.

    Raises:
        ConfigError: where its values contradict each other.
    """
    values: dict[str, Value] = {"train.threads": 1, **plan.fixed, **study.fixed}
    for axis, setting in point.items():
        values |= study.axes[axis][setting]
    return load_experiment(plan.base, [*_assigned(values), f"seed={seed}", f'name="{plan.name}"'])


def jobs_of(runs: tuple[Run, ...]) -> tuple[Job, ...]:
    """What there is to do for these runs, each piece once, phases before what goes on from them, else in the order of the runs."""
    found: dict[str, Job] = {}
    for run in runs:
        first, second = float_phase(run.experiment), quantised_phase(run.experiment)
        for job in (
            Job(_key("float", first), "float", first),
            Job(_key("quantised", second), "quantised", second, _key("float", first)),
            Job(run.key, "run", run.experiment, _key("quantised", second)),
        ):
            found.setdefault(job.key, job)
    return tuple(found.values())


def float_phase(experiment: Experiment) -> Experiment:
    """The experiment with all at its default that does not decide its float phase: equal for two that share it."""
    default = Train()
    return experiment.model_copy(
        update={
            "name": "float",
            "network": tuple(
                layer if isinstance(layer, PoolLayer) else layer.model_copy(update={"bits": None})
                for layer in experiment.network
            ),
            "quantise": Quantise(norm=experiment.quantise.norm),
            "train": experiment.train.model_copy(
                update={
                    "quantised_epochs": 0,
                    "finetune_epochs": 0,
                    "frozen_epochs": 0,
                    "finetune_learning_rate": default.finetune_learning_rate,
                }
            ),
            "prune": Prune(keep=1.0),
            "lava": Lava(),
            "map": Map(),
        }
    )


def quantised_phase(experiment: Experiment) -> Experiment:
    """The experiment with all at its default that does not decide its quantised phase (of no epochs in another order than "qp")."""
    trained = experiment.prune.order == "qp" and experiment.train.quantised_epochs > 0
    train = {
        "quantised_epochs": experiment.train.quantised_epochs if trained else 0,
        "finetune_epochs": 0,
        "frozen_epochs": experiment.train.frozen_epochs if trained else 0,
        "finetune_learning_rate": Train().finetune_learning_rate,
    }
    return experiment.model_copy(
        update={
            "name": "quantised",
            "train": experiment.train.model_copy(update=train),
            "prune": Prune(keep=1.0),
            "lava": Lava(),
        }
    )


def _key(stage: Stage, experiment: Experiment) -> str:
    return f"{stage}-{hashlib.sha256(to_toml(experiment).encode()).hexdigest()[:16]}"


def _assigned(values: Overrides) -> list[str]:
    return [f"{key}={toml_value(value)}" for key, value in values.items()]


def _try(plan: Plan, study: Study) -> None:
    """Loads every point of a study, and refuses two that are the same experiment."""
    known: dict[Experiment, dict[str, str]] = {}
    for point in study.points():
        try:
            experiment = experiment_of(plan, study, point, study.seeds[0])
        except ConfigError as error:
            raise ConfigError(f"studies.{study.name} ({_named(point)}): {error}") from None
        if experiment in known:
            raise ConfigError(
                f"studies.{study.name}: {_named(known[experiment])} and {_named(point)} are the same experiment; change or remove "
                "one of them."
            )
        known[experiment] = point


def _named(point: Mapping[str, str]) -> str:
    return ", ".join(f"{axis} {setting}" for axis, setting in point.items())


# --- the file ------------------------------------------------------------------------------------------------------------

_PLAN = ("name", "base", "seeds", "set", "studies")
_STUDY = ("question", "baseline", "seeds", "set", "axes")
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,57}"
_SETTING = r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,29}"
_ALLOWED = {
    "name": "1..58 letters, digits, dots, dashes or underscores, the first a letter or digit (it names a folder)",
    "base": "the name or path of an experiment",
    "seeds": f"a list of 1..{MAX_SEEDS} different whole numbers in 0..{SEED_LIMIT - 1}",
    "set": "a section of values by key, such as train.epochs = 5",
    "studies": "a section of at least one study, each with axes and a baseline",
    "question": "one line of text",
    "baseline": 'a section with a setting for one axis or more, such as baseline = { bits = "4" }',
    "axes": "a section of axes, each with two settings or more, such as bits.2 = { quantise.bits = 2 }",
    "value": "a number, a text, true, false or a list of numbers",
    "setting": "a section of values by key, such as { quantise.bits = 2 }",
}


def _plan(tree: Mapping[str, Any], folder: Path) -> Plan:
    _known("", tree, _PLAN, "a plan")
    name = _taken(tree, "name", "", lambda value: isinstance(value, str) and re.fullmatch(_NAME, value))
    base = _taken(tree, "base", "", lambda value: isinstance(value, str) and value)
    if base not in experiment_names() and (folder / base).is_file():
        base = str(folder / base)
    seeds = tuple(_taken(tree, "seeds", "", _are_seeds))
    fixed = _overrides(_taken(tree, "set", "", lambda value: isinstance(value, dict), {}), "set")
    listed = _taken(tree, "studies", "", lambda value: isinstance(value, dict) and value)
    load_experiment(base, _assigned(fixed))
    studies = tuple(_study(study, entry, seeds) for study, entry in listed.items())
    total = sum(len(study.seeds) * _size(study) for study in studies)
    if total > MAX_RUNS:
        raise ConfigError(f"the plan has {total} runs; at most {MAX_RUNS} fit, so take fewer settings or seeds.")
    return Plan(name, base, fixed, studies)


def _study(name: str, tree: object, seeds: tuple[int, ...]) -> Study:
    where = f"studies.{name}"
    if not re.fullmatch(_NAME, name):
        raise ConfigError(f"{shown(name)} cannot name a study; a name has {_ALLOWED['name']}.")
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} is {shown(tree)}; it must be a section with axes and a baseline.")
    _known(where, tree, _STUDY, "a study")
    question = _taken(tree, "question", where, lambda value: isinstance(value, str) and value and "\n" not in value, name)
    fixed = _overrides(_taken(tree, "set", where, lambda value: isinstance(value, dict), {}), f"{where}.set")
    listed = _taken(tree, "axes", where, lambda value: isinstance(value, dict) and value)
    axes = {axis: _axis(f"{where}.axes.{axis}", axis, settings) for axis, settings in listed.items()}
    owner: dict[str, str] = {}
    for axis, settings in axes.items():
        for key in {key for values in settings.values() for key in values}:
            if owner.setdefault(key, axis) != axis:
                raise ConfigError(f"{where}: both axes {owner[key]} and {axis} set {key}; a key belongs to one axis.")
    baseline = _taken(tree, "baseline", where, lambda value: isinstance(value, dict) and value)
    for axis, setting in baseline.items():
        if axis not in axes:
            raise ConfigError(ended(f"{where}.baseline.{axis}: the axes are {', '.join(axes)}{near_miss(axis, tuple(axes))}"))
        if not isinstance(setting, str) or setting not in axes[axis]:
            options = tuple(axes[axis])
            allowed = f"one of the texts {', '.join(map(shown, options))}{near_miss(setting, options)}"
            raise ConfigError(ended(f"{where}.baseline.{axis} is {shown(setting)}; it must be {allowed}"))
    return Study(name, question, fixed, axes, dict(baseline), tuple(_taken(tree, "seeds", where, _are_seeds, seeds)))


def _axis(where: str, name: str, settings: object) -> dict[str, dict[str, Value]]:
    for text in (name, *(settings if isinstance(settings, dict) else ())):
        if not re.fullmatch(_SETTING, text):
            raise ConfigError(
                f"{where}: {shown(text)} cannot name an axis or a setting; a name has 1..30 letters, digits, blanks, dots, dashes, "
                "plus signs or underscores, the first a letter or digit."
            )
    if not isinstance(settings, dict) or len(settings) < 2:
        raise ConfigError(f"{where} is {shown(settings)}; it must be two settings or more, each {_ALLOWED['setting']}.")
    made = {}
    for setting, values in settings.items():
        if not isinstance(values, dict):
            raise ConfigError(f"{where}.{setting} is {shown(values)}; it must be {_ALLOWED['setting']}.")
        made[setting] = _overrides(values, f"{where}.{setting}")
    return made


def _overrides(table: Mapping[str, Any], where: str) -> dict[str, Value]:
    made: dict[str, Value] = {}
    for key, value in flat_keys(table):
        if key in ("name", "seed"):
            way = "each run is named after the plan" if key == "name" else "list seeds in the plan"
            raise ConfigError(f"{where}.{key} cannot be set: {way}.")
        entries = value if isinstance(value, list) else [value]
        numbers = all(isinstance(entry, int | float) and not isinstance(entry, bool) for entry in entries)
        if not (numbers if isinstance(value, list) else numbers or isinstance(value, bool | str)):
            raise ConfigError(f"{where}.{key} is {shown(value)}; it must be {_ALLOWED['value']}.")
        made[key] = tuple(value) if isinstance(value, list) else value
    return made


def _size(study: Study) -> int:
    size = 1
    for settings in study.axes.values():
        size *= len(settings)
    return size


def _are_seeds(value: object) -> bool:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_SEEDS:
        return False
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < SEED_LIMIT for seed in value)
    return whole and len(set(value)) == len(value)


def _known(where: str, tree: Mapping[str, Any], names: tuple[str, ...], owner: str) -> None:
    for key in tree:
        if key not in names:
            field = f"{where}.{key}" if where else key
            raise ConfigError(ended(f"{field} is unknown; {owner} has {', '.join(names)}{near_miss(key, names)}"))


def _taken(tree: Mapping[str, Any], key: str, where: str, allowed: Any, default: Any = None) -> Any:
    """The value of a key, else its default; refuses what is missing or not allowed."""
    field = f"{where}.{key}" if where else key
    if key not in tree:
        if default is None:
            raise ConfigError(f"{field} is missing; it must be {_ALLOWED[key]}.")
        return default
    value = tree[key]
    if not allowed(value):
        given = "empty" if value == {} else shown(value)
        raise ConfigError(f"{field} is {given}; it must be {_ALLOWED[key]}.")
    return value
