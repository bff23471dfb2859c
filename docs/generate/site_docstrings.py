"""Examples in docstrings, of which markdown would make quotations and links: they become blocks of Python."""

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Puts fences around what begins with >>>; mkdocs.yml names it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(docstring: str) -> str:
    """Return a docstring in which each example, up to the next empty line, is between fences."""
    lines, is_open = [], False
    for line in [*docstring.splitlines(), ""]:
        indent = line[: len(line) - len(line.lstrip())]
        if not is_open and line.lstrip().startswith(">>> "):
            lines.append(f"{indent}```pycon")
            is_open = True
        elif is_open and not line.strip():
            lines.append("```")
            is_open = False
        lines.append(line)
    return "\n".join(lines[:-1])
