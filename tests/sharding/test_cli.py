"""The command-line parser: spellings, lists, truth values, old names, and how a command ends."""

import math
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from sharding.cli import CommandLine
from sharding.errors import UserError
from sharding.index import IndexConfig
from sharding.pack_config import PackConfig
from tests.conftest import ROOT


@dataclass(frozen=True)
class Options:
    """Some options."""

    batch_size: int = 8
    """Clips."""
    archs: tuple[str, ...] = ("tsn",)
    """Names."""
    numbers: tuple[int, ...] = (1, 2)
    """Numbers."""
    usual: bool = False
    """Truth."""
    compare_with: str = ""
    """Other."""


def parse(*arguments: str):
    parser = CommandLine(prog="command", exit_on_error=False, renamed={"against": "compare-with"})
    parser.add_class_arguments(Options, as_group=False)
    return parser.parse_args(list(arguments))


@pytest.mark.parametrize("option", ["--batch-size=4", "--batch_size=4"])
def test_both_spellings(option):
    assert parse(option).batch_size == 4


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--archs", "tsn", "vpsn"], ("tsn", "vpsn")),
        (["--archs=[tsn,vpsn]"], ("tsn", "vpsn")),
        (["--archs", "[tsn, vpsn]"], ("tsn", "vpsn")),
        (["--archs", "vpsn"], ("vpsn",)),
        (["--archs=[]"], ()),
    ],
)
def test_lists(arguments, expected):
    assert parse(*arguments).archs == expected


def test_lists_of_numbers():
    assert parse("--numbers", "4", "8").numbers == parse("--numbers=[4,8]").numbers == (4, 8)
    assert parse().numbers == (1, 2)
    with pytest.raises(UserError, match="--numbers four: use a list of integers"):
        parse("--numbers", "four")


def test_truth_values_are_flags():
    assert not parse().usual
    assert parse("--usual").usual and parse("--usual=true").usual and parse("--usual", "--batch-size=1").usual
    assert not parse("--usual=false").usual


@pytest.mark.parametrize("arguments", [["--against=pyav"], ["--against", "pyav"]])
def test_an_old_name_is_accepted_with_a_line_that_names_the_new_one(arguments, capsys):
    assert parse(*arguments).compare_with == "pyav"
    assert capsys.readouterr().err == "command: --against is now called --compare-with\n"


ENVIRONMENT = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}


def run(program: str, **options) -> subprocess.CompletedProcess:
    code = "from sharding.cli import run_command\n" + program + "\nrun_command(main, 'command')"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, timeout=60, **options)


@pytest.mark.parametrize("make", [partial(PackConfig, "folder", "videos", "out"), partial(IndexConfig, ("shards",))])
def test_limits_that_no_kernel_takes(make):
    for name, value, bounds in [
        ("time_limit", 1e10, "1 to 1000000000"),
        ("time_limit", math.inf, "1 to 1000000000"),
        ("memory_limit", math.inf, "0.01 to 1048576"),
        ("memory_limit", math.nan, "0.01 to 1048576"),
    ]:
        with pytest.raises(UserError) as refused:
            make(**{name: value})
        assert str(refused.value) == f"--{name.replace('_', '-')} {value}: {bounds} is possible"


@pytest.mark.parametrize("text", ["'x'", "'x' * 10**6"])
def test_output_that_cannot_be_written_is_one_line(text):
    with Path("/dev/full").open("w") as full:
        done = run(f"def main(arguments): print({text})", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == "command: error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("text", ["'x'", "'x' * 10**6"])
def test_a_reader_that_has_read_enough_is_silent(text):
    reading, writing = os.pipe()
    os.close(reading)
    done = run(f"def main(arguments): print({text})", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_names_of_files_that_are_no_text_are_printed():
    done = run("def main(arguments): print('caf\\udce9')", capture_output=True, env=ENVIRONMENT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "caf\\udce9\n", "")


def test_closed_streams():
    code = "from sharding.cli import run_command\ndef main(arguments): print('x'); return 3\nrun_command(main, 'c')"
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        done = subprocess.run(["bash", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code], cwd=ROOT, timeout=60)
        assert done.returncode == 3


def test_an_interrupt_is_one_line():
    done = run("def main(arguments): raise KeyboardInterrupt", stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (130, "command: interrupted\n")
