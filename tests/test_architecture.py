"""The house: who may import whom, and names that would hide other modules."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("sharding", "pipeline", "model", "launch")
ALLOWED = {
    "sharding": {"sharding"},
    "pipeline": {"pipeline", "sharding.manifest", "sharding.media", "sharding.commandline"},
    "model": {"model"},
    "launch": set(OURS),
}
# Libraries that only one module may know.
BEHIND_ONE_MODULE = {"nvidia": "pipeline/graph.py", "deepspeed": "launch/engine.py"}


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return names


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, package
    return found


@pytest.mark.parametrize("package", OURS)
def test_imports_follow_the_arrows(package):
    for path in sources(package):
        for name in imported_modules(path):
            if name.split(".")[0] in OURS:
                parts = name.split(".")
                prefixes = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
                assert prefixes & ALLOWED[package], f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(("library", "owner"), BEHIND_ONE_MODULE.items())
def test_libraries_behind_one_module(library, owner):
    users = {
        path.relative_to(ROOT).as_posix()
        for package in OURS
        for path in sources(package)
        if any(name.split(".")[0] == library for name in imported_modules(path))
    }
    assert users == {owner}


def test_no_file_of_launch_hides_another_module():
    """`deepspeed launch/train.py` puts launch/ first on sys.path: its file names hide what they are named like."""
    names = {path.stem for path in sources("launch")} - {"__init__"}
    assert not names & set(sys.stdlib_module_names)
    assert not names & set(packages_distributions())
