"""A second reader of the HTML pages: every number of a page is held to the data that it says it comes from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from netx_export.text import plain

HOSTILE = '</script><img src=x onerror="window.broken=1">\u202e&lt; \'"{{ 7 * 7 }} <!-- \x1b[31m' + "x" * 10_000
NUMBERS = """return [...document.querySelectorAll("[data-value]")].map(
    (node) => [node.dataset.at, node.dataset.value, node.textContent.trim()])"""


@dataclass
class Node:
    tag: str
    attributes: dict[str, str]
    content: list[Node | str] = field(default_factory=list)

    @property
    def inside(self) -> list[Node]:
        return [entry for entry in self.content if isinstance(entry, Node)]

    @property
    def text(self) -> str:
        return "".join(entry if isinstance(entry, str) else entry.text for entry in self.content)

    def all(self, test: Callable[[Node], bool]) -> Iterator[Node]:
        for node in self.inside:
            if test(node):
                yield node
            yield from node.all(test)


class Reader(HTMLParser):
    """The tree of a page, as Python's parser sees it."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "path"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self._open = [self.root]
        self.feed(text)
        self.close()
        assert len(self._open) == 1, [node.tag for node in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self._open[-1].content.append(node)
        if tag not in self.VOID:
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].content.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        node = self._open.pop()
        assert node.tag == tag, (node.tag, tag)

    def handle_data(self, data: str) -> None:
        self._open[-1].content.append(data)


def find(data: Any, pointer: str) -> list[Any]:
    """What a JSON pointer leads to; "*" stands for every entry of a list."""
    here = [data]
    for part in pointer.split("/")[1:]:
        key = part.replace("%20", " ").replace("%25", "%").replace("~1", "/").replace("~0", "~")
        if part == "*":
            here = [entry for value in here for entry in value]
        else:
            here = [value[int(key)] if isinstance(value, list) else value[key] for value in here]
    return here


def expected(data: Any, at: str) -> Any:
    verb, *places = at.split(" ")
    if not places:
        return find(data, verb)[0]
    values = [find(data, place) for place in places]
    if verb == "sum":
        return sum(values[0])
    (first,), (second,) = values
    return {"ratio": lambda: first / second, "difference": lambda: first - second}[verb]()


NUMBER = re.compile(r"([+-]?)(<?)([\d,]+(?:\.(\d+))?)\s*(%|kB|MB|s|points|×|k|M|G|T)?")  # noqa: RUF001


def says(text: str, value: float) -> bool:
    """Whether a text is the number, rounded to the digits that it shows."""
    found = NUMBER.fullmatch(text)
    assert found, text
    sign, below, digits, decimals, unit = found.groups()
    if below:
        return 0 < value < 0.5
    shown = float(digits.replace(",", "")) * (-1 if sign == "-" else 1)
    slack = 0.5000001 * 10.0 ** -len(decimals or "")
    factors = {"kB": 1e3, "points": 100, "k": 1e-3, "M": 1e-6, "G": 1e-9, "T": 1e-12}
    close = [abs(shown - value * factors.get(unit or "", 1)) <= slack]
    if unit == "%":  # of a share, or as a change
        close += [abs(shown - 100 * value) <= slack, abs(shown - 100 * (value - 1)) <= slack]
    if not decimals and "." not in digits and abs(shown) >= 100:  # three digits
        close.append(abs(shown - value) <= 0.5)
    return any(close) or (unit == "×" and math.isclose(shown, value, rel_tol=5e-3))  # noqa: RUF001


def marked(tree: Reader) -> list[Node]:
    return list(tree.root.all(lambda node: "data-value" in node.attributes))


def compare(text: str, data: dict[str, Any]) -> int:
    """Holds every number of a page to its data, and says how many there were."""
    tree = Reader(text)
    nodes = marked(tree)
    for node in nodes:
        value = expected(data, node.attributes["data-at"])
        assert json.loads(node.attributes["data-value"]) == value, node
        shown = node.text.strip()
        if isinstance(value, str | bool):  # a setting
            assert shown == (plain(value, 200).strip() if isinstance(value, str) else str(value).lower())
        elif isinstance(value, list) and not shown.startswith("["):
            assert shown.split("×") in ([str(n) for n in value], [str(n) for n in reversed(value)])  # noqa: RUF001
        else:
            assert shown == str(value) or says(shown, value), (shown, node.attributes)
    for cell in tree.root.all(lambda node: node.tag == "td"):  # no number without its place
        bare = re.match(r"[+-]?\d", cell.text.strip())
        of_text = "text" in cell.attributes.get("class", "") or "data-sort" in cell.attributes
        within = "data-value" in cell.attributes or any(cell.all(lambda node: "data-value" in node.attributes))
        assert not bare or of_text or within, cell
    for row in tree.root.all(lambda node: node.tag == "tr" and "data-at" in node.attributes):
        line = find(data, row.attributes["data-at"])[0]
        if isinstance(line, dict):  # a warning
            wide = [cell.text for cell in row.inside if "wide" in cell.attributes.get("class", "")]
            assert wide == [plain(line["what"], 2000), plain(line["way"], 2000)]
            assert row.inside[0].text.strip() == plain(line["layer"], 60) + plain(line["key"], 60)
            continue
        assert all(cell.text.strip() in (*line.split("\0"), "–") or cell.text.strip() in line for cell in row.inside)  # noqa: RUF001
    return len(nodes)


def section(text: str, name: str) -> Node | None:
    return next(Reader(text).root.all(lambda node: node.attributes.get("id") == name), None)


def embedded(text: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])
