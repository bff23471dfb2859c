"""The error messages in the source, as a user meets them: f"--out {out}: holds files" is `--out …: holds files`."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.commands import ROOT

PACKAGES = ("sharding", "pipeline", "model", "launch")
KINDS = {
    "UserError",
    "ErrorOfAllRanks",
    "MediaError",
    "RemoteError",
    "MissingError",
    "WorkerKilledError",
    "DivergedError",
    "SampleError",
    "RuntimeError",
}
# A ValueError that begins with a key of the configuration becomes a line on the command line as well.
KEYS = re.compile(r"(data|model|train|loss|optimizer|schedule|distillation|phases|plan|deepspeed)\b[. :]")
GAP = "…"


@dataclass(frozen=True)
class Message:
    """A message that is raised somewhere."""

    text: str
    """What it says, "…" for what differs from one time to the next, without what it advises after a semicolon."""
    file: str
    line: int


def messages(root: Path = ROOT) -> list[Message]:
    """Return all messages that have at least a word of their own, in the order of files and lines."""
    found = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            found += [Message(text, name, line) for text, line in _raised(ast.parse(path.read_text()))]
    return [message for message in found if has_words(message.text)]


def has_words(text: str) -> bool:
    """Return whether a message can be searched for."""
    return len(re.sub(r"[^A-Za-z]", "", text)) >= 4


def _raised(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call) or not node.exc.args:
            continue
        kind = ast.unparse(node.exc.func).rpartition(".")[2]
        for text in _texts(node.exc.args[-1]):
            shown = re.sub(f"{GAP}+", GAP, " ".join(text.split())).split("; ")[0].rstrip(";")
            if kind in KINDS or (kind == "ValueError" and KEYS.match(shown)):
                yield shown, node.lineno


def _texts(node: ast.expr) -> list[str]:
    """Return what an expression can say: both sides of `a if b else c`."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.IfExp):
        return _texts(node.body) + _texts(node.orelse)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [left + right for left in _texts(node.left) for right in _texts(node.right)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)]
    return [GAP]
