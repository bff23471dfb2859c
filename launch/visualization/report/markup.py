"""HTML from text that may be anybody's: names of classes, keys and paths are escaped here and nowhere else."""

import html
import json
from collections.abc import Iterable, Mapping
from typing import Any


def escape(value: object) -> str:
    """Return text for HTML, within elements and within quoted attributes.

    >>> escape('<b onclick="x">')
    '&lt;b onclick=&quot;x&quot;&gt;'
    """
    return html.escape(str(value).encode("utf-8", "replace").decode())


def element(name: str, *children: str, **attributes: object) -> str:
    """Return an element; children are HTML, attributes are text and are escaped.

    An attribute's name may end with _, which is left out, and its other _ become hyphens; True gives one without a
    value, None and False none.

    >>> element("a", "x", href="?a&b", class_="big", hidden=True)
    '<a href="?a&amp;b" class="big" hidden>x</a>'
    """
    parts = [name]
    for key, value in attributes.items():
        key = key.strip("_").replace("_", "-")
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            parts.append(f'{key}="{escape(value)}"')
    return f"<{' '.join(parts)}>{''.join(children)}</{name}>"


def island(identifier: str, values: Any) -> str:
    """Return data for the page's script, as JSON in which nothing can end the element or begin another.

    >>> island("data", ["</script>"])
    '<script type="application/json" id="data">["\\\\u003c/script\\\\u003e"]</script>'
    """
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="{escape(identifier)}">{text}</script>'


def isolated(value: object) -> str:
    """Return a name whose direction of writing cannot reach beyond it."""
    return f"<bdi>{escape(value)}</bdi>"


def table(rows: Iterable[Iterable[str]], head: Iterable[str] = (), **attributes: object) -> str:
    """Return a table; cells are HTML."""
    titles = "".join(element("th", cell, scope="col") for cell in head)
    body = "".join(element("tr", *(element("td", cell) for cell in row)) for row in rows)
    return element(
        "table", element("thead", element("tr", titles)) if titles else "", element("tbody", body), **attributes
    )


def definitions(values: Mapping[str, str], **attributes: object) -> str:
    """Return a list of terms and what they are; the values are HTML."""
    pairs = (element("div", element("dt", escape(term)), element("dd", value)) for term, value in values.items())
    return element("dl", *pairs, **attributes)


def command(line: str) -> str:
    """Return a command to be copied."""
    return element("div", element("pre", element("code", escape(line))), class_="command")


def percent(fraction: float | None, digits: int = 2) -> str:
    """Return a fraction in percent, a dash where there is none.

    >>> percent(0.5), percent(None), percent(float("nan"))
    ('50.00 %', '–', '–')
    """
    return "–" if fraction is None or fraction != fraction else f"{100 * fraction:.{digits}f} %"


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units.

    >>> duration(5), duration(3725), duration(200000)
    ('5 s', '1 h 2 min', '2 d 7 h')
    """
    left, parts = round(seconds), []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= length:
            parts.append(f"{left // length} {unit}")
        left %= length
    return " ".join(parts[:2]) or "0 s"
