"""How measurements are shown."""

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

import torch

from launch.training.versions import version_of
from sharding.cores import available_cores


def conditions() -> str:
    """Return the machine, the versions and how busy it is, in a line."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    dali = sorted({each.name for each in distributions() if (each.name or "").startswith("nvidia-dali")})
    versions = ", ".join(f"{name} {version_of(name)}" for name in ("torch", *dali, "av", "deepspeed"))
    machine = f"{available_cores()} cores of {processor()}, {gpu}"
    return f"{machine}; python {platform.python_version()}, {versions}; load {os.getloadavg()[0]:.1f}"


def processor() -> str:
    """Return name of the CPU."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return names[0] if names else platform.machine()


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return columns, the first to the left and the others to the right."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    aligned = [
        [cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(zip(line, widths))]
        for line in lines
    ]
    return "\n".join("  ".join(line) for line in aligned)
