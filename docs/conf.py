"""Settings of the documentation site:  make docs

The source folder is the root of the project, so that README.md, docs/ and notebooks/ are the pages that a code host shows, with the same
links between them.  The site's menu is made of the tables in docs/index.md.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import tomli

ROOT = Path(__file__).resolve().parents[1]
_PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = _PROJECT["name"]
version = release = _PROJECT["version"]
author = _PROJECT["authors"][0]["name"]
copyright = author  # Sphinx's own name for it
root_doc = "docs/index"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
include_patterns = ["*.md", "docs/*.md", "notebooks/*.ipynb"]
exclude_patterns = [".*", "build", "dist", "results", "runs", "tests", "qpsnn_lava", "mapping", "netx_export", "docs/_build"]

html_theme = "furo"
html_title = f"{project} {version}"
html_show_copyright = html_show_sphinx = html_copy_source = False
html_extra_path = ["site"]  # index.html of the site leads to docs/index.html
html_theme_options = {"source_edit_link": "", "source_view_link": ""}

myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests run the notebooks

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!(?:qpsnn_lava|mapping|netx_export)\.).*"),  # other projects' names, and our aliases of types
    ("py:class", r".*\.(?:_\w+|T|Annotated)"),
    ("py:data", ".*"),  # constants have no docstrings of their own
]

_MARKUP = re.compile(r"\*(?=\w|$)|\|")  # what reStructuredText would take for emphasis or a substitution
_LINK = re.compile(r"^\| \[[^]]+\]\(([^)#]+)\)", re.MULTILINE)


def menu(text: str, folder: str = "docs") -> str:
    """The menu of the site, made of an index: a table of contents for each heading, of the links that begin the rows below it.

    Args:
        text: the index, Markdown.
        folder: that it lies in.

    Returns:
        Markdown for MyST to put behind it.
    """
    made = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        caption, _, body = section.partition("\n")
        pages = [posixpath.normpath(posixpath.join(folder, link)) for link in _LINK.findall(body)]
        lines = ["", "```{toctree}", ":hidden:", f":caption: {caption.strip()}", "", *(f"/{page}" for page in pages), "```"]
        made.append("\n".join(lines) + "\n")
    return "".join(made)


def _add_menu(app: Any, page: str, source: list[str]) -> None:
    if page == root_doc:
        source[0] += "\n" + menu(source[0])


def plain(lines: list[str]) -> list[str]:
    """A docstring in which ``*shape`` and ``|w|`` mean themselves, as in the code; literal text stays as it is.

    Args:
        lines: of the docstring.
    """
    made, literal = [], -1
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if line and depth <= literal:
            literal = -1
        if literal < 0:
            made.append("``".join(part if i % 2 else _MARKUP.sub(r"\\\g<0>", part) for i, part in enumerate(line.split("``"))))
            literal = depth if line.endswith("::") else -1
        else:
            made.append(line)
    return made


def _read_plainly(app: Any, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    # Of these napoleon would take what stands before the first colon for a type: an empty comment keeps it from doing so.
    begin = ["..", ""] if what in ("attribute", "data", "property") else []
    lines[:] = begin + plain(lines)


def setup(app: Any) -> None:
    """Sphinx calls this."""
    app.connect("source-read", _add_menu)
    app.connect("autodoc-process-docstring", _read_plainly, priority=100)  # before napoleon, whose fields begin with * and **
