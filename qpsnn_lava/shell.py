"""What every page has: one shell in one look, and numbers that say where they come from.

A page is one HTML file that asks for nothing, drawn from plain data.  Every number stands beside its place: ``data-at`` is a JSON
pointer into the data (or a sum, ratio or difference of some) and ``data-value`` its exact value, as JSON; the text between is what
:func:`text_of` makes of it, and nothing else on a page formats numbers.  A page is drawn here, by its own module and in
``templates/``; its script only sorts, colours and shows.  Names come from files that others wrote: jinja2 escapes them, and the page's own
policy lets no script run but the one it brings.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from qpsnn_lava.report import NONE, TIMES, plain, seconds_text, size_text, three_digits, value_text

MAX_LAYERS = 500  # in a table
MAX_PANELS = 60  # small pictures of a kind
MAX_EMBEDDED = 3 << 19  # bytes of the data inside the page
_Path: TypeAlias = Sequence[str | int]


def drawn(
    template: str,
    data: Mapping[str, Any],
    *,
    titles: tuple[str, str],
    foot: str,
    file: str,
    tables: Mapping[str, str] | None = None,
    own: Sequence[str] = (),
    **context: Any,
) -> str:
    """A page as HTML, everything inside: style, script, data, downloads.

    Args:
        template: of the page, such as ``report.html.j2``; it extends ``base.html.j2``.
        data: plain data for JSON that the page shows; what is larger than 1.5 MB does not stand inside.
        titles: the page's name, and what is said behind it.
        foot: one sentence at its foot.
        file: the data's name as a download.
        tables: name -> text of further downloads.
        own: names in ``templates/`` of styles and scripts that only this page has.
        context: what the template takes beside the numbers; names that are asked for and not there are errors.
    """
    environment = _environment()
    style, script = (_together(("page.css", "page.js", *own), kind) for kind in (".css", ".js"))
    script = f'"use strict";\n(() => {{\n{script}\n}})();'
    numbers = _Numbers(data)
    embedded = json_text(data)
    whole = len(embedded) <= MAX_EMBEDDED
    files = dict(tables or {}) if whole else {}
    return environment.get_template(template).render(
        **context,
        title=name_text(titles[0]),
        subtitle=titles[1],
        foot=foot,
        n=numbers.span,
        td=numbers.cell,
        total=numbers.total,
        ratio=numbers.ratio,
        difference=numbers.difference,
        name=name_text,
        NONE=NONE,
        TIMES=TIMES,
        newline=Markup("\n"),
        style=Markup(style),
        script=Markup(script),
        hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data_file=file,
        embedded=Markup(embedded if whole else "null"),
        files=Markup(json_text(files)),
        downloads=[*files, *([file] if whole else [])],
    )


def _together(names: Sequence[str], kind: str) -> str:
    """The styles or scripts of these names, one behind the other."""
    return "\n".join(_environment().get_template(name).render().strip() for name in names if name.endswith(kind))


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("qpsnn_lava"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: _harmless(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def json_text(value: object) -> str:
    """JSON that can stand in a script element: no letter of it begins a tag or a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@lru_cache(maxsize=1 << 12)
def _harmless(text: str) -> str:
    """Any text on the page: without control and direction characters; jinja2 escapes it."""
    return plain(text, 2000)


@lru_cache(maxsize=1 << 12)
def name_text(text: str) -> str:
    """A name, short enough for a heading or a table."""
    return plain(text, 60)


# --- numbers -------------------------------------------------------------------------------------------------------------


def text_of(kind: str, value: Any) -> str:
    """A number as people read it.

    Args:
        kind: count (1,234), plain (1234), percent (of a value in %), share (of a value in 0..1), rate (likewise, one digit),
            part (likewise, two or three), three (significant digits), size (of megabytes), seconds, times (a ratio), change (a
            ratio as + or - %), relative (a change already), points (a difference of shares), shape ([C, H, W]), tile ([W, H, C]),
            setting (of an experiment: any value).
        value: the number, or None.
    """
    if value is None:
        return NONE
    match kind:
        case "count":
            return f"{value:,.0f}"
        case "percent":
            return f"{_percent(float(value))} %"
        case "share":
            return f"{100 * value:.2f} %"
        case "rate":
            return f"{100 * value:.1f} %" if value >= 0.01 or not value else f"{100 * value:.2g} %"
        case "part":
            return f"{_percent(100 * value)} %"
        case "three":
            return three_digits(value)
        case "size":
            return size_text(value)
        case "seconds":
            return f"{seconds_text(value)} s"
        case "times":
            return f"{value:.3g}{TIMES}"
        case "change":
            return f"{100 * (value - 1):+.0f} %" if round(100 * (value - 1)) else "0 %"
        case "relative":
            return text_of("change", 1 + value)
        case "points":
            return f"{100 * value:+.2f} points"
        case "shape":
            return TIMES.join(map(str, value))
        case "tile":
            return TIMES.join(map(str, reversed(value)))
        case "setting":
            return plain(value_text(value), 200)
    return str(value)


def _percent(value: float) -> str:
    if value >= 99.95 or not value:
        return f"{value:,.0f}"
    return f"{value:.1f}".removesuffix(".0") if value >= 0.95 else f"{value:.2g}"


class _Numbers:
    """The data's numbers as HTML, each with its place and its exact value."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    def _find(self, path: _Path) -> Any:
        value: Any = self._data
        for key in path:
            if isinstance(key, int):
                value = value[key]
            else:
                value = value.get(key) if value is not None else None
        return value

    def span(self, kind: str, *parts: str | int | _Path) -> Markup:
        """The number at a place of the data: keys, indices, and paths of them."""
        path = _joined(parts)
        return _marked("span", kind, _pointer(path), self._find(path))

    def cell(self, kind: str, *parts: str | int | _Path, bar: bool = False) -> Markup:
        """The same as a cell of a table; ``bar`` draws a value in % below it."""
        path = _joined(parts)
        return _marked("td", kind, _pointer(path), self._find(path), bar)

    def total(self, kind: str, *path: str | int) -> Markup:
        """The sum over a list (where the path has "*") of what stands in its entries."""
        star = path.index("*")
        values = [self._find((*path[:star], i, *path[star + 1 :])) for i in range(len(self._find(path[:star])))]
        return _marked("span", kind, f"sum {_pointer(path)}", sum(values))

    def ratio(self, kind: str, first: _Path, second: _Path) -> Markup:
        """One number over another; none where the other is 0 or one of them is not there."""
        one, two = self._find(first), self._find(second)
        value = None if one is None or not two else one / two
        return _marked("span", kind, f"ratio {_pointer(first)} {_pointer(second)}", value)

    def difference(self, kind: str, first: _Path, second: _Path) -> Markup:
        """One number less another."""
        value = self._find(first) - self._find(second)
        return _marked("span", kind, f"difference {_pointer(first)} {_pointer(second)}", value)


def _joined(parts: Sequence[str | int | _Path]) -> _Path:
    return [key for part in parts for key in ((part,) if isinstance(part, str | int) else part)]


def _marked(tag: str, kind: str, at: str, value: Any, bar: bool = False) -> Markup:
    if value is None:
        return Markup(f"<{tag}>{NONE}</{tag}>")
    drawn = f' class="bar" style="--p:{min(float(value), 100):.1f}"' if bar else ""
    exact, text = escape(json.dumps(value)), escape(text_of(kind, value))
    return Markup(f'<{tag}{drawn} data-at="{escape(at)}" data-value="{exact}">{text}</{tag}>')


def _pointer(path: _Path) -> str:
    """A JSON pointer (RFC 6901); blanks are written as %20, so that several can stand in a line."""
    return "".join(
        "/" + str(key).replace("~", "~0").replace("/", "~1").replace("%", "%25").replace(" ", "%20") for key in path
    )


# --- pictures that several pages have ---------------------------------------------------------------------------------------


def histogram(row: Mapping[str, Any]) -> dict[str, Any]:
    """Weights on their grid: the outline of the bars in a box of (levels, 100), and the ticks.

    Args:
        row: of :func:`qpsnn_lava.plots.weight_rows`.
    """
    counts, first, step, unit = row["counts"], row["first"], row["step"], 1 << row["exponent"]
    most = max(counts, default=0) or 1
    bars = "".join(f"M{i + 0.06:.2f} 100v-{bar_height(100 * n / most)}h.88V100z" for i, n in enumerate(counts) if n)
    zero = -first // step if step == 1 and first <= 0 < first + len(counts) else None
    ticks = [first * unit, *([0] if zero is not None and 0 < zero < len(counts) - 1 else [])]
    if len(counts) > 1:
        ticks.append((first + step * (len(counts) - 1)) * unit)
    at = [100 * ((tick // unit - first) / step + 0.5) / len(counts) for tick in ticks]
    return {
        "bars": Markup(bars),
        "levels": len(counts),
        "most": most,
        "ticks": list(zip(ticks, at, strict=True)),
        "unit": unit,
    }


def bar_height(value: float) -> str:
    """Of a bar in a box that is 100 high; what is there can be seen."""
    return f"{max(value, 0.8):.1f}".removesuffix(".0")


def axis(intervals: Sequence[Sequence[float]]) -> tuple[float, float]:
    """From the ten per cent below the lowest interval to 100 %, in shares of 1."""
    lowest = min((low for low, _ in intervals), default=0.0)
    return min(0.9, math.floor(10 * lowest) / 10), 1.0
