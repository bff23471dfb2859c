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
    "pipeline": {"pipeline", "sharding.errors", "sharding.files", "sharding.manifest", "sharding.dataset"}
    | {"sharding.cores", "sharding.label_sets", "sharding.modules", "sharding.objects.transport"}
    | {"sharding.video.decode", "sharding.video.frame_packets"},
    "model": {"model"},
    "launch": set(OURS),
}
# Inside launch/: each room's own, and what it may import of the other rooms. A command is a file of launch/ itself.
ROOMS = {
    "training": set(),
    "inference": {"training"},
    "visualization": {"inference", "training"},
    "benchmarks": {"inference", "training", "visualization"},
    "schedule_search": {"training", "visualization"},
    "studies": {"training", "visualization", "benchmarks.report", "inference.class_table"},
}
# Libraries that only one module may know.
BEHIND_ONE_MODULE = {"nvidia": "pipeline/dali_graph.py", "deepspeed": "launch/training/engine.py"}


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            names.add(node.module)
    return names


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, package
    return found


def prefixes(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts) + 1)}


@pytest.mark.parametrize("package", OURS)
def test_imports_follow_the_arrows(package):
    for path in sources(package):
        for name in imported_modules(path):
            if name.split(".")[0] in OURS:
                assert prefixes(name) & ALLOWED[package], f"{path.relative_to(ROOT)} imports {name}"


def test_rooms_of_launch_are_all_named():
    assert {path.name for path in (ROOT / "launch").iterdir() if (path / "__init__.py").exists()} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_inside_launch_follow_the_arrows(room):
    allowed = {f"launch.{name}" for name in (room, *ROOMS[room])}
    for path in sources(f"launch/{room}"):
        for name in imported_modules(path):
            if name.split(".")[0] == "launch":
                assert prefixes(name) & allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(("library", "owner"), BEHIND_ONE_MODULE.items())
def test_libraries_behind_one_module(library, owner):
    users = {
        path.relative_to(ROOT).as_posix()
        for package in OURS
        for path in sources(package)
        if any(name.split(".")[0] == library for name in imported_modules(path))
    }
    assert users == {owner}


def test_nothing_in_launch_hides_another_module():
    """`deepspeed launch/train.py` puts launch/ first on sys.path: what lies there hides what it is named like."""
    names = {path.stem for path in (ROOT / "launch").glob("*.py")} - {"__init__"}
    names |= {path.name for path in (ROOT / "launch").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert not names & set(sys.stdlib_module_names)
    assert not names & set(packages_distributions())
