"""Links and anchors of Markdown pages: found, and pointed elsewhere where a page is shown in another place.

Plain functions of text and paths, for the site (`site_hooks`) and for the test of all links (`tests/test_site.py`).
Paths are those in the repository, with slashes: "docs/training.md".
"""

import posixpath
import re
from collections.abc import Callable, Iterator

SHOWN_AS = {
    "README.md": "index.md",
    "RESULTS.md": "results.md",
    "BENCHMARKS.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages outside docs/ that the site shows, and as which of its own."""

_FENCE = re.compile(r"^(?P<fence>```+|~~~+).*?^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(
    r"(?P<picture>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)(?P<title>\s+\"[^\"]*\")?\)"
)
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t]*#*$", re.MULTILINE)


def without_code(text: str) -> str:
    """Return the text with blanks in the place of code, so that places in it stay what they are."""

    def blank(match: re.Match) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    return _SPAN.sub(blank, _FENCE.sub(blank, text))


def links(text: str) -> Iterator[re.Match]:
    """Return the links and pictures of a page, with the groups `picture`, `text`, `target` and `title`."""
    return _LINK.finditer(without_code(text))


def is_relative(target: str) -> bool:
    """Return whether a link leads to a file of this repository."""
    return not re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.IGNORECASE)


def resolve(target: str, page: str) -> tuple[str, str]:
    """Return the path and the anchor that a relative link of `page` leads to.

    >>> resolve("../RESULTS.md#figure-5", "docs/models.md")
    ('RESULTS.md', 'figure-5')
    """
    path, _, anchor = target.partition("#")
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page, anchor


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings."""
    plain = _FENCE.sub("", text)
    return {slug(heading) for heading in _HEADING.findall(plain)}


def slug(heading: str, separator: str = "-") -> str:
    """Return the anchor of a heading, as GitHub makes it.

    >>> slug("Figure 5: which `kernel` feeds [which](results.md)?")
    'figure-5-which-kernel-feeds-which'
    """
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", separator)


def place_in_site(path: str) -> str | None:
    """Return where the site has a file of the repository, from its top; None if it does not have it."""
    return path.removeprefix("docs/") if path.startswith("docs/") else SHOWN_AS.get(path)


def for_site(text: str, page: str, elsewhere: Callable[[str], str | None]) -> str:
    """Return the text of a page with its relative links pointed to where the site has what they mean.

    Args:
        page: the page's path in the repository.
        elsewhere: gives the address of a file that the site does not have; None leaves only the words of the link.
    """
    here = posixpath.dirname(place_in_site(page) or "")
    parts, end = [], 0
    for link in links(text):
        if not is_relative(link["target"]):
            continue
        path, anchor = resolve(link["target"], page)
        place = place_in_site(path)
        target = posixpath.relpath(place, here or ".") if place else elsewhere(path)
        words = text[link.start("text") : link.end("text")]  # with the code that `links` does not see
        title, hash = link["title"] or "", f"#{anchor}" if anchor else ""
        parts += [text[end : link.start()], f"{link['picture']}[{words}]({target}{hash}{title})" if target else words]
        end = link.end()
    return "".join(parts) + text[end:]
