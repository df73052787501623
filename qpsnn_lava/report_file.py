"""report.json: what it holds, and the check of one from elsewhere, before anything of it is shown."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from netx_export.errors import FormatError
from netx_export.text import plain

SCHEMA = 1
MAX_BYTES = 1 << 28  # of a report.json
MAX_LAYERS = 4096
MAX_CORES = 1 << 18
MAX_CHANNELS = 1 << 16
MAX_LEVELS = 512  # grid levels counted one by one: what the chip can hold; a wider foreign file is put into bins
MAX_SHOWN, MAX_STEPS = 64, 256  # neurons of a layer and steps in a raster
MAX_COUNT = 1 << 53  # what JSON readers keep exactly

STAGES = {
    "float": "float, unpruned",
    "quantised": "quantised, unpruned",
    "pruned": "quantised and cut, before fine-tuning",
    "integer": "final integers, exact simulator",
    "lava": "final integers, Lava fixed-point run",
}

Report: TypeAlias = Mapping[str, Any]


def check(report: object) -> None:
    """Refuses what is not a report.json: a needed key that is missing, a value of the wrong type or out of its range.

    Keys: ``schema`` (1), ``name``, ``command``, ``versions`` {name: version}, ``seed``, ``dataset`` {``name``, ``n_train``,
    ``n_validation``, ``n_test``, ``licence``, ``source``, ``coding``, ``steps``, ``input_bits``}, ``accuracy`` {stage:
    {``value`` 0..1, ``n``, ``interval`` [low, high]}} with the stages of :data:`STAGES` that were run, ``size_mb`` {``float``,
    ``deployed``, and maybe ``paper`` (:func:`qpsnn_lava.sizes.paper_mb`)}, ``synaptic_ops``, ``layers`` [{``name``, ``type``,
    ``shape``, ``channels_before``, ``channels_after``, ``bits``, ``stored_bits``, ``threshold``, ``firing_rate`` 0..1,
    ``cores``, ``synapse_words`` over all its cores, ``utilisation`` %, and maybe ``grid_use`` [without, with gamma]
    (:func:`qpsnn_lava.quantise.grid_use`)}], ``mapping`` {``chip``, ``cores``, ``chips``,
    ``fits``, ``verdict``, ``lower_bound``, ``evidence``, and maybe ``layers`` (:class:`mapping.utilisation.LayerUse`),
    ``core_use``, ``mesh``, ``synapses``, ``traffic``, ``energy``, ``what_if`` (:func:`mapping.details.describe`), ``pareto``
    (:func:`mapping.details.front_rows`), ``compared`` (:class:`mapping.details.Compared`), ``widths``
    (:class:`mapping.widths.WidthChoice`)}, ``seconds`` {stage: s}. May be absent or null: ``ties``, ``config`` (the experiment as
    TOML), ``weights`` (:func:`qpsnn_lava.plots.weight_rows`), ``scores`` {``criterion``, ``layers`` [{``name``, ``rank`` and ``nuclear`` of
    every channel, ``kept``}], and maybe ``scoring`` {``samples``, ``seconds``, of which ``criterion_seconds``, ``share`` of
    all seconds, ``stability``, ``peak_bytes``}}, ``raster`` {``sample``, ``steps``, ``layers``}
    (:func:`qpsnn_lava.plots.raster_rows`), ``metrics`` {``network``, ``unpruned``} (:meth:`qpsnn_lava.metrics.Metrics.to_dict`),
    ``agreement`` {``samples``, ``spikes_compared``, ``spike_mismatches``, and maybe ``simulated_samples``, ``lava_samples``,
    ``voltages_compared``, ``voltage_mismatches``}, ``unpruned`` {``size_mb``, ``synaptic_ops``, and ``cores``,
    ``synapse_words`` and ``layers``, or ``error``: why the chip has no place for it}. Other keys are allowed.

    Args:
        report: what ``json.loads`` made of the file.

    Raises:
        FormatError: naming the key, what stands there and what is expected.
    """
    _REPORT(report, "")


def read_report(path: Path) -> dict[str, Any]:
    """A report.json from anywhere, checked.

    Raises:
        FormatError: it is not there, larger than 256 MiB, not JSON or not a report.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        report: Any = json.loads(content) if len(content) <= MAX_BYTES else None
    except FileNotFoundError:
        raise FormatError(f"{path}: there is no such file.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(
            f"{path} is not JSON ({plain(str(error), 120)}); a report.json or a netx file is expected."
        ) from None
    if len(content) > MAX_BYTES:
        raise FormatError(f"{path} is larger than {MAX_BYTES} bytes, too large for a report.json.")
    try:
        check(report)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    checked: dict[str, Any] = report
    return checked


_WAY_OUT = "Make the report again (qpsnn run, qpsnn report)."
_Check: TypeAlias = Callable[[object, str], None]


def _refuse(where: str, value: object, expected: str) -> FormatError:
    name = where or "the top level"
    return FormatError(f"report.json: {name} is {plain(reprlib.repr(value), 60)}; expected {expected}. {_WAY_OUT}")


def _count(value: object, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise _refuse(where, value, "a whole number of at least 0 (at most 2**53)")


def _positive(value: object, where: str) -> None:
    _count(value, where)
    if not value:
        raise _refuse(where, value, "a whole number of at least 1")


def _number(value: object, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e18:  # refuses NaN, too
        raise _refuse(where, value, "a number of at least 0")


def _share(value: object, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise _refuse(where, value, "a number in 0..1")


def _correlation(value: object, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1:
        raise _refuse(where, value, "a number in -1..1")


def _text(value: object, where: str) -> None:
    if not isinstance(value, str):
        raise _refuse(where, value, "a text")


def _flag(value: object, where: str) -> None:
    if not isinstance(value, bool):
        raise _refuse(where, value, "true or false")


def _seed(value: object, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 1 << 64:
        raise _refuse(where, value, "a whole number")


def _schema(value: object, where: str) -> None:
    if isinstance(value, bool) or value != SCHEMA:
        raise _refuse(where, value, f"{SCHEMA}, the one that this version reads")


def _difference(value: object, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_COUNT:
        raise _refuse(where, value, "a whole number (at most 2**53)")


def _core(value: object, where: str) -> None:
    _keys(
        {key: _count for key in ("chip", "core", "x", "y", "neurons")}
        | {"slices": _text}
        | {key: _number for key in ("operations", "spikes_in", "spikes_out")}
    )(value, where)
    assert isinstance(value, dict)
    _each(_number)({key: entry for key, entry in value.items() if str(key).startswith("percent_")}, where)


def _traffic(value: object, where: str) -> None:
    _keys(
        {"populations": _list_of(_text, 0, MAX_LAYERS)}
        | {key: _number for key in ("hops", "largest_link", "between_chips", "busiest_operations")}
        | {
            "busiest_core": _or_null(_list_of(_count, 2, 2)),
            "messages": _list_of(_list_of(_number, 0, MAX_LAYERS), 0, MAX_LAYERS),
        }
    )(value, where)
    assert isinstance(value, dict)
    size = len(value["populations"])
    _list_of(_list_of(_number, size, size), size, size)(value["messages"], f"{where}.messages")


def _scored(value: object, where: str) -> None:
    _keys({"name": _text, "rank": _list_of(_number, 1, MAX_CHANNELS), "nuclear": _list_of(_number, 1, MAX_CHANNELS)})(
        value, where
    )
    assert isinstance(value, dict)
    size = len(value["rank"])
    _list_of(_number, size, size)(value["nuclear"], f"{where}.nuclear")
    _keys({"kept": _list_of(_below(size), 0, size)})(value, where)


def _fires(value: object, where: str) -> None:
    """A raster: a time that is drawn is a step of it, and every neuron that is shown has its times."""
    _keys(
        {"sample": _count, "steps": _positive, "layers": _list_of(_keys({"name": _text, "neurons": _positive}), 0, MAX_LAYERS)}
    )(value, where)
    assert isinstance(value, dict)
    if value["steps"] > MAX_STEPS:
        raise _refuse(f"{where}.steps", value["steps"], f"at most {MAX_STEPS}")
    for i, row in enumerate(value["layers"]):
        here = f"{where}.layers[{i}]"
        _keys({"shown": _list_of(_below(row["neurons"]), 0, MAX_SHOWN)})(row, here)
        size = len(row["shown"])
        times = _list_of(_below(value["steps"]), 0, value["steps"])
        _keys({"spikes": _list_of(times, size, size)})(row, here)


def _below(end: int) -> _Check:
    def run(value: object, where: str) -> None:
        _count(value, where)
        if isinstance(value, int) and value >= end:
            raise _refuse(where, value, f"a whole number in 0..{end - 1}")

    return run


def _or_null(inner: _Check) -> _Check:
    def run(value: object, where: str) -> None:
        if value is not None:
            inner(value, where)

    return run


def _list_of(inner: _Check, least: int, most: int) -> _Check:
    def run(value: object, where: str) -> None:
        if not isinstance(value, list):
            raise _refuse(where, value, "a list")
        if not least <= len(value) <= most:
            number = f"{least}" if least == most else f"{least}..{most}"
            raise FormatError(f"report.json: {where} has {len(value)} entries; expected {number}. {_WAY_OUT}")
        for i, entry in enumerate(value):
            inner(entry, f"{where}[{i}]")

    return run


def _each(inner: _Check) -> _Check:
    def run(value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise _refuse(where, value, "a table")
        for key, entry in value.items():
            inner(entry, f"{where}.{plain(str(key), 40)}")

    return run


def _keys(needed: Mapping[str, _Check], optional: Mapping[str, _Check] | None = None) -> _Check:
    def run(value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise _refuse(where, value, f"a table with {', '.join(needed)}" if needed else "a table")
        prefix = f"{where}." if where else ""
        for key, inner in needed.items():
            if key not in value:
                raise FormatError(f"report.json: the key {prefix}{key} is missing. {_WAY_OUT}")
            inner(value[key], prefix + key)
        for key, inner in (optional or {}).items():
            if value.get(key) is not None:
                inner(value[key], prefix + key)

    return run


_ACCURACY = _keys({"value": _share, "n": _positive, "interval": _list_of(_share, 2, 2)})
_AGREEMENT_MORE = ("simulated_samples", "lava_samples", "voltages_compared", "voltage_mismatches")
_USE = {"cores": _count, "synapse_words": _count}
_BEFORE = {"size_mb": _number, "synaptic_ops": _number}
_BEFORE_MAPPED = _keys({**_BEFORE, **_USE}, {"layers": _list_of(_keys({"name": _text, **_USE}), 0, MAX_LAYERS)})
_BEFORE_UNMAPPED = _keys({**_BEFORE, "error": _text})


def _unpruned(value: object, where: str) -> None:
    unmapped = isinstance(value, dict) and value.get("error") is not None
    (_BEFORE_UNMAPPED if unmapped else _BEFORE_MAPPED)(value, where)


_RANGE = _list_of(_number, 2, 2)
_MAPPING_DETAILS = {
    "layers": _list_of(
        _keys(
            {"name": _text, "cores": _count, "percent": _each(_list_of(_number, 3, 3))}
            | {key: _count for key in ("neurons_mean", "synapse_words", "axon_in", "axon_map")},
            {"binding": _text, "binding_percent": _number, "pool_percent": _number},
        ),
        1,
        MAX_LAYERS,
    ),
    "core_use": _list_of(_core, 0, MAX_CORES),
    "mesh": _keys({key: _positive for key in ("cores_per_chip", "cores_per_tile", "width")}),
    "synapses": _list_of(
        _keys(
            {"name": _text}
            | {key: _count for key in ("logical", "nonzero", "unique", "words")}
            | {key: _number for key in ("sharing_ratio", "overhead")}
            | {key: _difference for key in ("saved_by_pruning", "saved_by_quantisation")}
        ),
        0,
        MAX_LAYERS,
    ),
    "traffic": _traffic,
    "energy": _keys({"davies": _RANGE, "sana_fe": _RANGE, "static_milliwatts": _number, "sources": _list_of(_text, 0, 9)}),
    "what_if": _list_of(
        _keys(
            {"name": _text, "width": _count, "bits": _count, "cores_by_bits": _each(_or_null(_count))}
            | {"good_widths": _list_of(_count, 0, 1 << 20)},
            {"next_width_words": _count, "next_width_cores": _count},
        ),
        0,
        MAX_LAYERS,
    ),
    "pareto": _list_of(_keys({"cores": _count, "messages": _number, "operations": _number}), 0, 10_000),
    "compared": _list_of(
        _keys(
            {"name": _text, "lower_bound": _count, "neurons": _count}
            | {key: _or_null(_count) for key in ("cores", "chips", "synapse_words")}
        ),
        0,
        1000,
    ),
    "widths": _list_of(
        _keys(
            {"name": _text, "why": _text}
            | {key: _count for key in ("width", "asked", "taken", "words_asked", "words_taken", "cores_asked", "cores_taken")}
        ),
        0,
        MAX_LAYERS,
    ),
}
_METRICS = _keys(
    {"footprint": _number, "connection_sparsity": _share, "activation_sparsity": _share}
    | {"synaptic_operations": _keys(dict.fromkeys(("Effective_ACs", "Effective_MACs", "Dense"), _number))}
)
_WEIGHTS = _list_of(
    _keys(
        {"name": _text, "source": _text, "first": _difference, "step": _positive, "counts": _list_of(_count, 1, MAX_LEVELS)}
        | {"exponent": _below(32)}
        | {key: _count for key in ("weights", "zeros", "stored_bits")}
    ),
    0,
    MAX_LAYERS,
)
_SCORES = _keys(
    {"criterion": _text, "layers": _list_of(_scored, 0, MAX_LAYERS)},
    {
        "scoring": _keys(
            {"samples": _count, "seconds": _number, "criterion_seconds": _number, "share": _share},
            {"stability": _correlation, "peak_bytes": _count},
        )
    },
)
_REPORT = _keys(
    {
        "schema": _schema,
        "name": _text,
        "command": _text,
        "versions": _each(_or_null(_text)),
        "seed": _seed,
        "dataset": _keys(
            {key: _text for key in ("name", "licence", "source", "coding")}
            | {key: _count for key in ("n_train", "n_validation", "n_test", "steps", "input_bits")}
        ),
        "accuracy": _keys({}, {stage: _ACCURACY for stage in STAGES}),
        "size_mb": _keys({"float": _number, "deployed": _number}, {"paper": _number}),
        "synaptic_ops": _number,
        "layers": _list_of(
            _keys(
                {
                    "name": _text,
                    "type": _text,
                    "shape": _list_of(_positive, 1, 4),
                    "channels_before": _count,
                    "channels_after": _count,
                    "bits": _or_null(_count),
                    "stored_bits": _or_null(_count),
                    "threshold": _or_null(_count),
                    "firing_rate": _or_null(_share),
                    **_USE,
                    "utilisation": _or_null(_number),
                },
                {"grid_use": _list_of(_share, 2, 2)},
            ),
            1,
            MAX_LAYERS,
        ),
        "mapping": _keys(
            {
                "chip": _text,
                "cores": _count,
                "chips": _count,
                "fits": _flag,
                "verdict": _text,
                "lower_bound": _count,
                "evidence": _list_of(_text, 1, 1000),
            },
            _MAPPING_DETAILS,
        ),
        "seconds": _each(_number),
    },
    {
        "ties": _count,
        "config": _text,
        "weights": _WEIGHTS,
        "scores": _SCORES,
        "raster": _fires,
        "metrics": _keys({"network": _METRICS}, {"unpruned": _METRICS}),
        "agreement": _keys(
            {key: _count for key in ("samples", "spikes_compared", "spike_mismatches")},
            {key: _count for key in _AGREEMENT_MORE},
        ),
        "unpruned": _unpruned,
    },
)
