"""Memory of this process, as Linux counts it."""

from pathlib import Path
from typing import Literal


def used_memory(figure: Literal["VmSize", "VmPeak", "VmRSS", "VmHWM"]) -> int:
    """Return bytes of address space (VmSize now, VmPeak at most) or of resident memory (VmRSS now, VmHWM at most)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{figure}:")[1].split()[0]) << 10
