"""What all commands have in common: they start fast, their help fits, and a mistake costs one line."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

HEAVY = {"torch", "deepspeed", "nvidia", "torchmetrics", "tensorboard", "matplotlib", "pyarrow", "onnx", "captum"}
SCRIPTS = sorted(path.stem for path in (ROOT / "launch").glob("*.py"))
HEAVY_COMMANDS = ("lr_transfer",)  # a study, whose options need torch
LIGHT_COMMANDS = [
    *(f"launch.{script}" for script in SCRIPTS if script not in ("__init__", *HEAVY_COMMANDS)),
    *("launch.benchmark loader", "launch.benchmark scale", "launch.visualize synthesizers"),
]
PROGRAM = """
import importlib, sys
module, *arguments = sys.argv[1:]
try:
    importlib.import_module(module).main(arguments)
except SystemExit:
    pass
except ValueError as error:
    print("error:", error)
print("loaded", *{name.split(".")[0] for name in sys.modules})
"""


def run_light(command: str, *arguments: str) -> tuple[str, set[str]]:
    """Returns what a command prints and the top-level modules it has loaded in the end."""
    environment = {"PATH": "/usr/bin:/bin", "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-c", PROGRAM, *command.split(), *arguments]
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    text, _, loaded = done.stdout.rpartition("loaded ")
    return text + done.stderr, set(loaded.split())


@pytest.mark.parametrize("command", LIGHT_COMMANDS)
def test_help_is_readable_and_imports_nothing_heavy(command):
    text, loaded = run_light(command, "--help")
    assert text.startswith(f"usage: {command.split()[0].replace('.', '/')}.py")
    assert not loaded & HEAVY
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.split("\n\n")[0].splitlines()) <= 2, "a usage of a line or two"
    assert not re.search(r"typing\.|<class|\bnull\b.*type:|type: ", text)
    assert not re.search(r"^\s+Of\b|  Of ", text, re.MULTILINE)
    lines = [line for line in text.splitlines() if re.match(r"  (-\w, )?--", line)]
    if "train" not in command and "search" not in command:
        assert not [line for line in lines if "_" in line.split()[0]]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("launch.train", ["--model.dept=18"], "did you mean --model.depth?"),
        ("launch.predict", ["--chekpoint=x", "y.mp4"], "did you mean --checkpoint?"),
        ("launch.evaluate", ["--checkpoint=x", "--data=y", "--crops=2"], "--crops 2: use 1, 3 or 10"),
        ("launch.predict", ["--checkpoint=x", "y.mp4", "--stride=1"], "--stride: it is of windows; give their length"),
        (
            "launch.predict",
            ["--checkpoint=x", "y.mp4", "--window=2", "--threshold=0.5"],
            "--threshold: windows show their most probable classes; use --top, or leave out --window",
        ),
        ("launch.ensemble", ["a.parquet"], "an ensemble takes two score files or more"),
        (
            "launch.evaluate",
            ["--checkpoint", "x", "y", "--data=z", "--submission=kinetics"],
            "--submission: predictions of one checkpoint, not of 2; name one",
        ),
        ("launch.features", ["--checkpoint=x", "--out=y"], "give either video files and folders, or --data SHARDS"),
        ("launch.evaluate", ["--batch-size=4"], "--checkpoint and --data are required"),
        ("launch.benchmark", ["step", "--rounds=many"], "--rounds many: use an integer"),
        (
            "launch.benchmark",
            ["pack"],
            "--videos is required; see launch/benchmark.py pack --help",
        ),
        ("launch.benchmark", [], "which command? Give one of advise, pack, loader"),
        ("launch.visualize", ["frames", "x", "--epochs=0"], "--epochs 0: use 1 or more"),
        ("launch.export", ["--checkpoint=x", "--out=y.pt"], "use a name that ends in .onnx"),
    ],
)
def test_a_mistake_is_one_line_before_anything_heavy(command, arguments, message):
    text, loaded = run_light(command, *arguments)
    assert message in text
    assert len(text.strip().splitlines()) == 1
    assert not loaded & HEAVY
