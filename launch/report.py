"""How measurements are shown."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version

import torch


def conditions() -> str:
    """The machine and the versions, in a line."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    names = ("torch", "av", "deepspeed")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{os.cpu_count()} cores{gpu}; python {platform.python_version()}, {versions}; load {os.getloadavg()[0]:.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns, the first to the left and the others to the right."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    aligned = [
        [cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(zip(line, widths))]
        for line in lines
    ]
    return "\n".join("  ".join(line) for line in aligned)
