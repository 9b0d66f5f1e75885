"""A page in one file: HTML, styles, scripts and facts, with nothing to fetch."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from resight.characters import printable

SHARED_SCRIPTS = ("dom.js", "plot.js", "charts.js")
RUN_SCRIPTS = (
    "images.js",
    "gallery.js",
    "thumbs.js",
    "detail.js",
    "confusion.js",
    "curves.js",
    "tables.js",
    "run.js",
)


def render_run(facts: dict[str, Any]) -> str:
    """The report of a run as one HTML page, from facts of plain JSON values without NaN.

    Names may contain anything: they reach the page as JSON and are inserted as text.
    """
    return render_page("run.html", facts, RUN_SCRIPTS)


def render_page(template: str, facts: dict[str, Any], scripts: Sequence[str]) -> str:
    """`template` (it extends `base.html`) with style, scripts and `facts` written into it.

    Every page has the shared scripts, then its own `scripts`; no others can run, as its policy
    lists their hashes. `facts` has a `title`.
    """
    environment = Environment(
        loader=PackageLoader("resight.render", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    style, theme = _source("style.css"), _source("theme.js")
    sources = [_source(name) for name in dict.fromkeys((*SHARED_SCRIPTS, *scripts))]
    return environment.get_template(template).render(
        title=printable(str(facts["title"])),
        facts=embedded(facts),
        style=Markup(style),
        theme=Markup(theme),
        scripts=[Markup(source) for source in sources],
        style_hashes=Markup(_hash(style)),
        script_hashes=Markup(" ".join(_hash(source) for source in [theme, *sources])),
    )


def policy_of(page: str) -> str | None:
    """The content security policy that a page carries, for a server to send as well."""
    found = re.search(r'http-equiv="Content-Security-Policy" content="([ !#-~]*)"', page)
    return found[1] if found else None


def embedded(facts: dict[str, Any]) -> Markup:
    """`facts` as ASCII JSON that can stand in a script element: no text in it can end it."""
    text = json.dumps(shown(facts), allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def shown(value: Any) -> Any:
    """Plain JSON values with every text printable; line feeds stay."""
    if isinstance(value, str):
        return printable(value, "\n")
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    return [shown(item) for item in value] if isinstance(value, list | tuple) else value


def _source(name: str) -> str:
    return (files("resight.render") / "templates" / name).read_text("utf-8")


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
