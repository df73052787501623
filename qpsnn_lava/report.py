"""The report of a run as text: ``report.md``, and a few rows for the terminal.

A report is plain JSON data (``report.json``, see :func:`qpsnn_lava.report_file.check` for its keys); the functions here only read it.
Names in it can come from files that we did not write, so every text is made harmless for Markdown, HTML and terminals.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from mapping.chip import STATEMENT
from netx_export.network import MAX_THRESHOLD
from netx_export.text import plain as plain
from qpsnn_lava.report_file import STAGES, Report

ALIVE = (0.02, 0.80)  # firing rates at which spike-for-spike equality proves something (contract point 6)
NONE = "–"  # noqa: RUF001 (an en dash, for "there is none")
TIMES = "×"  # noqa: RUF001

PLOTS = {
    "weights": "Integer weights of each layer on their grid",
    "firing": "Firing rate of each layer",
    "cores": "Cores and synapse words of each layer, before and after pruning",
    "scores": "SVS scores of the channels of each layer, and the cut",
}
MAPPING_PLOTS = {
    "mesh": "Every core at its place on the mesh, and how much of each resource it uses",
    "use": "What each layer takes of its cores",
    "traffic": "Spikes a step between layers",
    "pareto": "Cores against traffic",
}

# --- report.md -----------------------------------------------------------------------------------------------------------


def markdown(report: Report, plots: Sequence[str] = ()) -> str:
    """``report.md``: the verdict, then accuracy, layers, mapping with its evidence, times and provenance.

    Args:
        report: as :func:`check` accepts it.
        plots: paths of pictures, relative to the text, that are shown behind the layers; those of the mapping behind its tables.

    Returns:
        GitHub-flavoured Markdown; all names and texts of the report are escaped.
    """
    captions = {**PLOTS, **MAPPING_PLOTS}
    pictures = {path: f"![{captions.get(_stem(path), escape(_stem(path)))}](<{_link(path)}>)" for path in plots}
    of_layers = [picture for path, picture in pictures.items() if _stem(path) not in MAPPING_PLOTS]
    of_mapping = [picture for path, picture in pictures.items() if _stem(path) in MAPPING_PLOTS]
    parts = [
        f"# {escape(report['name'])}: from SLAYER to {escape(report['mapping']['chip'])}",
        _verdict(report),
        "## Accuracy",
        _accuracy_table(report),
        "## Layers",
        _layer_table(report),
        *of_layers,
        *([f"## Metrics\n\n{_metrics_table(report['metrics'])}"] if report.get("metrics") else []),
        "## Mapping",
        *_mapping_section(report),
        *of_mapping,
        *_evidence_section(report),
        "## What is exact, what is modelled",
        _exact_or_modelled(report),
        "## Seconds per stage",
        _seconds_table(report),
        *_scoring_line(report),
        "## Provenance",
        _provenance(report),
    ]
    return "\n\n".join(parts) + "\n"


def _verdict(report: Report) -> str:
    mapping, unpruned = report["mapping"], report.get("unpruned")
    fits = "**fits**" if mapping["fits"] else "**DOES NOT FIT**"
    cores = _cores_change(report, "→")
    lines = [
        f"- **Accuracy:** {_accuracy_line(report, '→')}",
        f"- **Exactness:** {_exactness_line(report)}",
        f"- **Size:** {_size_line(report, '→', steps=True)}",
        f"- **Synaptic operations per inference:** {_change(_of(unpruned, 'synaptic_ops'), report['synaptic_ops'])}",
        f"- **Cores:** {cores} on {escape(mapping['chip'])} ({_plural(mapping['chips'], 'chip')}), {fits}; {STATEMENT}",
    ]
    if unpruned:
        lines.append("\n*a → b: the same network before and after pruning (for accuracy and size: from float to integers).*")
    return "\n".join(lines)


def _accuracy_line(report: Report, arrow: str) -> str:
    accuracy = report["accuracy"]
    before = accuracy.get("float")
    stage = next((s for s in ("integer", "lava", "pruned", "quantised") if s in accuracy), None)
    if stage is None:
        return f"float {_percent(before)}; nothing later was measured" if before else "not measured"
    after = accuracy[stage]
    label = {"integer": "as integers", "lava": "in Lava", "pruned": "pruned", "quantised": "quantised"}[stage]
    start = f"float {_percent(before)} {arrow} " if before else ""
    points = ""
    if before and before["n"] == after["n"]:
        points = f"{_signed(100 * (after['value'] - before['value']))} points, "
    low, high = (100 * end for end in after["interval"])
    return f"{start}{_percent(after)} {label} ({points}n = {after['n']:,}, 95 % interval {low:.1f}..{high:.1f})"


def _exactness_line(report: Report) -> str:
    """Loud when something differs, and never "exact" when nothing was compared."""
    agreement = report.get("agreement")
    compared, wrong = count_compared(agreement)
    if agreement is None or not compared:
        return "**not checked** (nothing was compared)"
    counts = [f"{agreement['spike_mismatches']:,} of {agreement['spikes_compared']:,} compared spikes differ"]
    if agreement.get("voltages_compared"):
        counts.append(f"{agreement['voltage_mismatches']:,} of {agreement['voltages_compared']:,} output voltages differ")
    lava = agreement.get("lava_samples", 0)
    scope = f"SLAYER against the exact simulator on {_plural(_simulated(agreement), 'sample')}, "
    scope += f"against Lava on {lava:,}" if lava else "**Lava was not run**"
    verdict = "**NOT EXACT:**" if wrong else "**exact:**"
    line = f"{verdict} {', '.join(counts)} ({scope})"
    weak = [row for row in report["layers"] if not is_alive(row)]
    if weak:
        names = ", ".join(f"{escape(row['name'])} ({100 * row['firing_rate']:.2g} %)" for row in weak[:4])
        more = f" and {len(weak) - 4} more" if len(weak) > 4 else ""
        line += f". Weak evidence where a layer fires outside 2..80 %: {names}{more}"
    return line


def _size_line(report: Report, arrow: str, steps: bool) -> str:
    """Float to deployed, with the unpruned integers between them where ``steps``."""
    size, unpruned = report["size_mb"], _of(report.get("unpruned"), "size_mb")
    ratio = f", {size['float'] / size['deployed']:.3g}{TIMES} smaller" if 0 < size["deployed"] < size["float"] else ""
    between = f"{size_text(unpruned)} as unpruned integers {arrow} " if steps and unpruned is not None else ""
    counted = f" ({size_text(size['paper'])} as the QP-SNN paper counts)" if steps and "paper" in size else ""
    return f"{size_text(size['float'])} float {arrow} {between}{size_text(size['deployed'])} deployed{ratio}{counted}"


def _accuracy_table(report: Report) -> str:
    rows = []
    for stage, label in STAGES.items():
        entry = report["accuracy"].get(stage)
        if entry is None:
            rows.append([label, "not run", NONE, NONE])
            continue
        low, high = (100 * end for end in entry["interval"])
        rows.append([label, _percent(entry), f"{low:.1f}..{high:.1f}", f"{entry['n']:,}"])
    table = markdown_table(["stage", "test accuracy", "95 % interval", "samples"], rows, "lrrr")
    ties = report.get("ties")
    if ties is None:
        return table
    return f"{table}\n\n{_plural(ties, 'sample')} of the integer run decided by the tie rule (the lowest class wins)."


def _layer_table(report: Report) -> str:
    layers, unpruned = report["layers"], report.get("unpruned")
    before = {row["name"]: row for row in _of(unpruned, "layers") or []}
    rows = []
    with_use = any(row.get("grid_use") for row in layers)
    for row in layers:
        old, silent = before.get(row["name"]), row["threshold"] == MAX_THRESHOLD
        rows.append(
            [
                escape(row["name"]),
                escape(row["type"]),
                TIMES.join(str(n) for n in row["shape"]),
                _change(row["channels_before"], row["channels_after"]),
                f"{_or_none(row['bits'])} / {_or_none(row['stored_bits'])}",
                *([_use_of_grid(row.get("grid_use"))] if with_use else []),
                "reads v" if silent else _or_none(row["threshold"]),
                NONE if silent or row["firing_rate"] is None else f"{100 * row['firing_rate']:.1f} %",
                _change(_of(old, "cores"), row["cores"]),
                _change(_of(old, "synapse_words"), row["synapse_words"]),
                NONE if row["utilisation"] is None else f"{row['utilisation']:.0f} %",
            ]
        )
    cores, words = (sum(row[key] for row in layers) for key in ("cores", "synapse_words"))
    total = [_change(_of(unpruned, "cores"), cores), _change(_of(unpruned, "synapse_words"), words)]
    rows.append(["**total**", *[""] * (6 + with_use), *(f"**{text}**" for text in total), ""])
    head = ["layer", "type", "shape", "channels", "bits asked / stored", *(["grid used"] if with_use else [])]
    head += ["threshold", "fires", "cores", "synapse words", "fullest core"]
    table = markdown_table(head, rows, "lll" + "r" * (7 + with_use))
    use = " Grid used: share of the levels that 98 % of the weights reach, without → with the scale gamma." if with_use else ""
    return (
        f"{table}\n\n*Shape: channels{TIMES}height{TIMES}width, or neurons. Threshold: mantissa of 2⁶; a layer that reads v "
        "does not spike. Fires: spikes per neuron and time step. Synapse words: of 64 bits, over all cores of the layer. "
        f"Fullest core: use of the resource that binds there.{use}*"
    )


def _use_of_grid(shares: Sequence[float] | None) -> str:
    return NONE if shares is None else _change(100 * shares[0], 100 * shares[1]) + " %"


_METRIC_NAMES = ("footprint", "connection_sparsity", "activation_sparsity", "Effective_ACs", "Effective_MACs", "Dense")


def _metrics_table(metrics: Mapping[str, Any]) -> str:
    rows = {when: {**table, **table["synaptic_operations"]} for when, table in metrics.items() if table}
    columns = [("unpruned", "unpruned"), ("network", "final")]
    columns = [(key, title) for key, title in columns if key in rows]
    units = {"footprint": " bytes", "connection_sparsity": " %", "activation_sparsity": " %"}
    lines = []
    for name in _METRIC_NAMES:
        unit = units.get(name, "")
        values = [100 * rows[key][name] if unit == " %" else rows[key][name] for key, _ in columns]
        lines.append([escape(name), *(f"{value:.2f}{unit}" if unit == " %" else f"{value:,.0f}{unit}" for value in values)])
    table = markdown_table(["NeuroBench metric", *(title for _, title in columns)], lines, "l" + "r" * len(columns))
    return (
        f"{table}\n\n*Of the integer network on the whole test set. Footprint: weights in their stored bits. Effective and dense "
        "synaptic operations per sample: MACs where the input is graded, ACs where it is a spike.*"
    )


def _mapping_section(report: Report) -> list[str]:
    mapping = report["mapping"]
    rows = [
        ["chip", escape(mapping["chip"])],
        ["verdict", escape(mapping["verdict"])],
        ["cores", f"{mapping['cores']:,} on {_plural(mapping['chips'], 'chip')}"],
        ["lower bound", f"{mapping['lower_bound']:,} cores, however the layers are cut (layers do not share a core)"],
    ]
    traffic = mapping.get("traffic")
    if traffic:
        hops, busiest, between = (three_digits(traffic[key]) for key in ("hops", "largest_link", "between_chips"))
        rows.append(["on the mesh, a step", f"{hops} hops, {busiest} messages on the busiest link, {between} between chips"])
        if traffic["busiest_core"]:
            chip, core = traffic["busiest_core"]
            operations = three_digits(traffic["busiest_operations"])
            rows.append(["busiest core", f"{core} of chip {chip}: {operations} synaptic operations a step"])
        rows.append(["energy of a step", _energy_line(mapping.get("energy"))])
    parts = [markdown_table(["", ""], rows, "ll"), f"These numbers are **{STATEMENT}**."]
    if mapping.get("core_use"):
        parts[-1] += " Every core with all that it uses: cores.csv; every layer: layers.csv."
    tables = (
        ("compared", "Side by side", compared_table),
        ("widths", "Pruned to good widths", _widths_table),
        ("synapses", "Synapses", _synapse_table),
        ("what_if", "What if", _what_if_table),
    )
    for key, title, table in tables:
        if mapping.get(key):
            parts += [f"### {title}", table(mapping[key])]
    return parts


def _energy_line(energy: Mapping[str, Any] | None) -> str:
    if energy is None:
        return "not given: no energy per operation of this chip is public"
    ranges = [" to ".join(three_digits(end) for end in energy[key]) for key in ("davies", "sana_fe")]
    static = three_digits(energy["static_milliwatts"])
    sources = "; ".join(escape(source) for source in energy["sources"])
    return f"{ranges[0]} nJ (Davies) or {ranges[1]} nJ (SANA-FE), and about {static} mW all the time; {sources}"


def compared_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Networks side by side as a Markdown table; changes are against the first one.

    Args:
        rows: as :class:`mapping.details.Compared` in plain data.
    """
    first = rows[0]
    table = []
    for row in rows:
        if row["cores"] is None:
            table.append(
                [escape(row["name"]), "does not fit", NONE, f"{row['lower_bound']:,}", f"{row['neurons']:,}", NONE, NONE]
            )
            continue
        change = NONE
        if first["synapse_words"] and row is not first:
            change = f"{100 * (row['synapse_words'] / first['synapse_words'] - 1):+.0f} %"
        counts = (row["cores"], row["chips"], row["lower_bound"], row["neurons"], row["synapse_words"])
        table.append([escape(row["name"]), *(f"{count:,}" for count in counts), change])
    head = ["network", "cores", "chips", "at least", "neurons", "synapse words", "words against the first"]
    return markdown_table(head, table, "lrrrrrr")


def compared_markdown(made: Mapping[str, Any]) -> str:
    """Networks side by side as a Markdown page of its own: all of them, and their layers.

    Args:
        made: ``chip``, ``profile``, ``networks`` (as for :func:`compared_table`) and ``evidence``.
    """
    networks = made["networks"]
    names = list(dict.fromkeys(layer[0] for row in networks for layer in row["layers"]))
    table = []
    for name in names:
        cells = []
        for row in networks:
            found = next((layer for layer in row["layers"] if layer[0] == name), None)
            cells.append(NONE if found is None else f"{found[1]:,} / {found[2]:,} / {found[3]:,}")
        table.append([escape(name), *cells])
    head = ["layer", *(escape(row["name"]) for row in networks)]
    assumed = [f"- {escape(line)}" for line in made["evidence"] if "assumed legal" in line]
    parts = [
        f"# Cores and synapse words on {escape(made['profile'])}",
        compared_table(networks),
        "*At least: a lower bound of the cores. Words: of 64 bits, over all cores. A network at other bits is the same shapes with "
        "weights of so many stored bits; only shapes and bits count.*",
        "Channels (dense: neurons) / cores / synapse words of each layer:",
        markdown_table(head, table, "l" + "r" * len(networks)),
        "\n".join([f"These numbers are **{STATEMENT}**.", *assumed]),
    ]
    return "\n\n".join(parts) + "\n"


def _widths_table(rows: Sequence[Mapping[str, Any]]) -> str:
    table = []
    for row in rows:
        words = _change(row["words_asked"], row["words_taken"])
        cores = _change(row["cores_asked"], row["cores_taken"])
        counts = (str(row[key]) for key in ("width", "asked", "taken"))
        table.append([escape(row["name"]), *counts, words, cores, escape(row["why"])])
    sums = [[sum(row[f"{key}_{when}"] for row in rows) for when in ("asked", "taken")] for key in ("words", "cores")]
    table.append(["**total**", "", "", "", *(_change(*pair) for pair in sums), ""])
    head = ["layer", "channels", "asked for", "taken", "synapse words", "cores", "why"]
    text = markdown_table(head, table, "lrrrrrl")
    return f"{text}\n\n*Words and cores: with all widths as asked for → as taken, at the bits before pruning.*"


def _synapse_table(rows: Sequence[Mapping[str, Any]]) -> str:
    keys = ("logical", "nonzero", "unique", "words")
    table = [
        [
            escape(row["name"]),
            *(f"{row[key]:,}" for key in keys),
            three_digits(row["sharing_ratio"]),
            three_digits(row["overhead"]),
            f"{row['saved_by_pruning']:,}",
            f"{row['saved_by_quantisation']:,}",
        ]
        for row in rows
    ]
    sums = (sum(row[key] for row in rows) for key in (*keys, "saved_by_pruning", "saved_by_quantisation"))
    *four, pruning, quantisation = (f"**{value:,}**" for value in sums)
    table.append(["**total**", *four, "", "", pruning, quantisation])
    head = ["layer", "connections", "not 0", "stored weights", "words", "sharing", "overhead", "saved by pruning", "by bits"]
    return (
        f"{markdown_table(head, table, 'lrrrrrrrr')}\n\n*Connections: synapses, zeros included; stored weights: those that are not 0, once "
        "each; words: of 64 bits, on all cores; sharing: connections per stored weight; overhead: bits of memory per bit of stored "
        "weight; saved: words against the unpruned network at 8 bits, each layer on one core.*"
    )


def _what_if_table(rows: Sequence[Mapping[str, Any]]) -> str:
    table = []
    for row in rows:
        good = [n for n in row["good_widths"] if n < row["width"]][-5:]
        nearest = ", ".join(map(str, reversed(good))) or NONE
        steps = (_or_none(row.get(key)) for key in ("next_width_words", "next_width_cores"))
        table.append(
            [escape(row["name"]), str(row["bits"]), _by_bits(row["cores_by_bits"]), f"{row['width']:,}", *steps, nearest]
        )
    head = ["layer", "bits", "cores at other bits", "channels", "fewer words at", "fewer cores at", "good widths below"]
    note = (
        "*Each layer by itself. Fewer at: the next smaller number of channels that saves. Good widths: every larger one costs more "
        "words or cores; on Loihi 2 lists are cut into powers of two, so that fewer channels can cost more than a good width.*"
    )
    return f"{markdown_table(head, table, 'lrlrrrl')}\n\n{note}"


def _by_bits(cores: Mapping[str, int | None]) -> str:
    """Such as "1 up to 4 bits, 2 up to 8"."""
    runs = [(count, list(same)[-1]) for count, same in groupby(sorted(map(int, cores)), key=lambda bits: cores[str(bits)])]
    shown = [f"{'none' if count is None else f'{count:,}'} up to {bits}" for count, bits in runs]
    return ", ".join([f"{shown[0]} bits", *shown[1:]]) if shown else NONE


def _evidence_section(report: Report) -> list[str]:
    rows = [evidence_row(line) for line in report["mapping"]["evidence"] if line != STATEMENT]
    tags = Counter(row.tag for row in rows if row.tag)
    evidence = [
        [escape(row.name), escape(f"{row.value} {row.unit}"), row.tag, escape(row.source)]
        if row.tag
        else [NONE, NONE, NONE, escape(row.source)]
        for row in rows
    ]
    counts = ", ".join(f"{n} {tag}" for tag, n in sorted(tags.items(), key=lambda item: (-item[1], item[0])))
    return [
        f"### Evidence\n\nThe constants behind them{f' ({counts})' if counts else ''}. "
        "Tags: published = paper or vendor brief, source = public source code or printed by the vendor's tools, "
        "inferred = fitted to what those tools printed, assumed = ours.",
        markdown_table(["constant", "value", "tag", "where from"], evidence, "lrll"),
    ]


class Evidence(NamedTuple):
    """A line of the evidence in its parts; a line that is none has only its text, in ``source``."""

    name: str
    value: str
    unit: str
    tag: str
    source: str


def evidence_row(line: str) -> Evidence:
    """A line such as "neurons = 4095 neurons per core [inferred] fitted to ..." (:attr:`mapping.chip.Chip.evidence`)."""
    found = _EVIDENCE.fullmatch(line)
    return Evidence(*found.groups()) if found else Evidence("", "", "", "", line)


_EVIDENCE = re.compile(r"([^=]*?) = (\S+) (.*?) ?\[(published|source|inferred|assumed)\] (.*)", re.DOTALL)


def _exact_or_modelled(report: Report) -> str:
    compared, wrong = count_compared(report.get("agreement"))
    if wrong:
        exact = "**NOT in this run:** SLAYER, the simulator and Lava must give the same integers, and do not (see above)."
    elif not compared:
        exact = "integers by construction, but **not checked in this run**: no spikes were compared."
    else:
        lava = "and Lava's fixed-point run" if _of(report.get("agreement"), "lava_samples") else "(Lava was not run)"
        exact = (
            "weights, biases, decays, thresholds and every spike: SLAYER's forward pass, the netx file, the exact simulator "
            f"{lava} compute with the same integers, checked as stated above."
        )
    return f"- **Exact:** {exact}\n- **Modelled:** cores, synapse words, utilisation and whether it fits: {STATEMENT}."


def _seconds_table(report: Report) -> str:
    seconds = report["seconds"]
    if not seconds:
        return "Not measured."
    rows = [[escape(stage), seconds_text(value)] for stage, value in seconds.items()]
    return markdown_table(["stage", "seconds"], [*rows, ["**total**", f"**{seconds_text(sum(seconds.values()))}**"]], "lr")


def _scoring_line(report: Report) -> list[str]:
    """What scoring took of the run, and how sure it was; nothing where the report does not say."""
    scores = report.get("scores") or {}
    found = scores.get("scoring")
    if not found:
        return []
    images = f" on {found['samples']:,} training images" if found["samples"] else ""
    line = f"Scoring ({escape(scores['criterion'])}){images}: {seconds_text(found['seconds'])} s, {100 * found['share']:.2f} % of the run"
    if found.get("stability") is not None:
        line += f"; rank correlation of the scores from two halves of the images, in the least stable layer: {found['stability']:.2f}"
    return [f"{line}."]


def _provenance(report: Report) -> str:
    data = report["dataset"]
    coding = escape(data["coding"])
    bits = f", {data['input_bits']} bit input" if data["input_bits"] else ""
    rows = [
        ["dataset", escape(data["name"])],
        ["split", f"{data['n_train']:,} training, {data['n_validation']:,} validation, {data['n_test']:,} test"],
        ["coding", f"{coding}, {_plural(data['steps'], 'time step')}{bits}"],
        ["licence", escape(data["licence"])],
        ["source", escape(data["source"])],
        ["seed", str(report["seed"])],
        ["versions", ", ".join(f"{escape(k)} {escape(v or 'missing')}" for k, v in report["versions"].items()) or NONE],
    ]
    return f"{markdown_table(['', ''], rows, 'll')}\n\nMade by\n\n    {plain(report['command'], 2000)}"


# --- the terminal --------------------------------------------------------------------------------------------------------


def summary(report: Report) -> list[tuple[str, str]]:
    """At most ten (label, value) rows for a terminal: labels of at most 9, values of at most 69 characters of plain ASCII.

    Args:
        report: as :func:`check` accepts it.
    """
    mapping, unpruned, agreement = report["mapping"], report.get("unpruned"), report.get("agreement")
    rows = [("accuracy", _short_accuracy(report["accuracy"])), ("exactness", _short_exactness(agreement))]
    if agreement and count_compared(agreement)[0]:
        lava = agreement.get("lava_samples", 0)
        simulated = _plural(_simulated(agreement), "sample")
        on_lava = f"with Lava on {lava:,}" if lava else "Lava was not run"
        rows.append(("compared", f"SLAYER with the simulator on {simulated}, {on_lava}"))
    if report.get("ties"):
        rows.append(("ties", f"{_plural(report['ties'], 'sample')} of the integer run (the lowest class wins)"))
    rows.append(("size", _size_line(report, "->", steps=False).replace(TIMES, " times")))
    rows.append(("syn. ops", f"{_change(_of(unpruned, 'synaptic_ops'), report['synaptic_ops'], '->')} per inference"))
    fits = "fits" if mapping["fits"] else "DOES NOT FIT"
    cores = _cores_change(report, "->")
    chip = f"{_plural(mapping['chips'], 'chip')} of {plain(mapping['chip'], 20)}"
    rows.append(("cores", f"{cores} (at least {mapping['lower_bound']:,}), {chip}: {fits}"))
    rows.append(("", STATEMENT))
    if report["seconds"]:
        rows.append(("time", f"{seconds_text(sum(report['seconds'].values()))} s"))
    return [(label, _ascii(value)[:69]) for label, value in rows]


def _short_accuracy(accuracy: Mapping[str, Any]) -> str:
    parts = [f"{name} {_percent(accuracy[name])}" for name in ("float", "integer", "lava") if name in accuracy]
    final = next((accuracy[name] for name in ("integer", "lava", "pruned", "quantised", "float") if name in accuracy), None)
    if final is None:
        return "not measured"
    if "integer" not in accuracy and "lava" not in accuracy:
        parts += [f"{name} {_percent(accuracy[name])}" for name in ("quantised", "pruned") if name in accuracy]
    low, high = (100 * end for end in final["interval"])
    ends = f"(n = {final['n']:,}, 95 % {low:.1f}..{high:.1f})"
    if "integer" in accuracy and "lava" in accuracy:  # Lava sees fewer samples: its number would mislead without its own n
        parts = [part for part in parts if not part.startswith("lava")]
    return f"{' -> '.join(parts)} {ends}"


def _short_exactness(agreement: Mapping[str, Any] | None) -> str:
    compared, wrong = count_compared(agreement)
    if agreement is None or not compared:
        return "not checked"
    text = f"{agreement['spike_mismatches']:,} of {agreement['spikes_compared']:,} spikes differ"
    if agreement.get("voltage_mismatches"):
        text += f", {agreement['voltage_mismatches']:,} voltages"
    return f"NOT EXACT: {text}" if wrong else f"exact: {text}"


def spikes(layer: Mapping[str, Any]) -> bool:
    """Whether a row of ``layers`` has neurons that spike: neither the host's input nor a layer that reads its voltage."""
    return layer["threshold"] not in (None, MAX_THRESHOLD)


# --- texts and numbers ---------------------------------------------------------------------------------------------------


_SPECIAL = {c: f"\\{c}" for c in "\\`*_[]|~"} | {c: f"&#{ord(c)};" for c in "&<>$@"}


def escape(text: str, longest: int = 300) -> str:
    """``plain`` text as a part of a Markdown line or table cell: no markup, HTML, link or formula can come out of it."""
    line = "".join(_SPECIAL.get(c, c) for c in plain(text, longest))
    return line.replace("://", "&#58;//").replace("www.", "www&#46;")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """Cells that are already escaped as a Markdown table; ``align``: "l" or "r" of each column."""
    rule = ["---:" if a == "r" else "---" for a in align]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _change(before: float | None, after: float, arrow: str = "→") -> str:
    """ "a → b", or only b where nothing changed or a is not known; whole numbers."""
    if before is None or round(before) == round(after):
        return f"{after:,.0f}"
    return f"{before:,.0f} {arrow} {after:,.0f}"


def _cores_change(report: Report, arrow: str) -> str:
    """Cores before and after pruning."""
    unpruned, cores = report.get("unpruned"), report["mapping"]["cores"]
    if _of(unpruned, "error") is not None:
        return f"does not fit {arrow} {cores:,}"
    return _change(_of(unpruned, "cores"), cores, arrow)


def _of(table: Mapping[str, Any] | None, key: str) -> Any:
    return None if table is None else table.get(key)


def count_compared(agreement: Mapping[str, Any] | None) -> tuple[int, int]:
    """(values compared, values that differ): spikes and output voltages."""
    if agreement is None:
        return 0, 0
    spikes, voltages = agreement["spikes_compared"], agreement.get("voltages_compared") or 0
    return spikes + voltages, agreement["spike_mismatches"] + (agreement.get("voltage_mismatches") or 0)


def _simulated(agreement: Mapping[str, Any]) -> int:
    """Samples on which SLAYER was compared with the exact simulator."""
    return int(agreement.get("simulated_samples", agreement["samples"]))


def is_alive(layer: Mapping[str, Any]) -> bool:
    """Whether a layer fires enough, and not always, for equal spikes to mean something; True where it cannot spike at all."""
    if layer["firing_rate"] is None or not spikes(layer):
        return True
    return ALIVE[0] <= float(layer["firing_rate"]) <= ALIVE[1]


def _percent(accuracy: Mapping[str, Any]) -> str:
    return f"{100 * accuracy['value']:.2f} %"


def _signed(value: float) -> str:
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}"


def three_digits(value: float) -> str:
    """Three significant digits, never in powers of ten: 0.0123, 1.23, 12.3, 1,234."""
    if value == 0:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def size_text(megabytes: float) -> str:
    return f"{three_digits(1000 * megabytes)} kB" if megabytes < 1 else f"{three_digits(megabytes)} MB"


def seconds_text(seconds: float) -> str:
    return f"{seconds:,.1f}" if seconds < 100 else f"{seconds:,.0f}"


def value_text(value: Any) -> str:
    """A setting's value."""
    return NONE if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _or_none(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")


def _stem(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _link(path: str) -> str:
    return plain(path, 1000).replace("<", "%3C").replace(">", "%3E").replace("\\", "/")


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of plain data as CSV: a list is joined by x, a table spread over columns (``percent_neurons_mean``, ``_min``, ``_max``).

    A text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    flat = [_flat(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(key for row in flat for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            for name, entry in value.items():
                flat |= {
                    f"{key}_{name}_{end}": _six(number) for end, number in zip(("mean", "min", "max"), entry, strict=True)
                }
        elif isinstance(value, list | tuple):
            flat[key] = "x".join(map(str, value))
        else:
            formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
            flat[key] = f"'{value}" if formula else _six(value)
    return flat


def _six(value: Any) -> Any:
    """A number with a fraction in six digits, anything else as it is."""
    return f"{value:.6g}" if isinstance(value, float) else value
