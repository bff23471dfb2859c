"""Modules of these packages as programs of their own."""

import os
import sys
from pathlib import Path

# Python puts the folder that it is started in before all others for `-m` and `-c`; a numpy.py there is not meant.
_RUN = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "from runpy import run_module; run_module({!r}, run_name='__main__', alter_sys=True)"
)


def module_command(name: str) -> list[str]:
    """Return the command that runs a module, in an environment of `module_environment`; arguments follow it."""
    return [sys.executable, "-c", _RUN.format(name)]


def module_environment() -> dict[str, str]:
    """Return this process's environment, in which these packages are found wherever they are."""
    paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
