"""A forked command is what a fresh one is: output, exit code, signals, and nothing left."""

import os
import signal
import sys
import time

import psutil
import pytest

from tests.helpers.commands import HAS_GPU, Forked, run_command, started

pytestmark = pytest.mark.skipif(HAS_GPU, reason="commands are not forked where a GPU is")
SLEEPING = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"]


@pytest.mark.parametrize("arguments", [["verify", "nowhere"], ["verify", "--help"], ["verfy"]])
def test_output_and_exit_code(arguments):
    command = [sys.executable, "-m", "sharding", *arguments]
    forked, fresh = run_command(command), run_command(command, fresh=True)
    assert (forked.returncode, forked.stdout, forked.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)
    assert fresh.stdout + fresh.stderr


def test_what_a_program_does_wrong():
    done = run_command([sys.executable, "-c", "import sys; print(sys.argv); 1 / 0", "one"])
    assert (done.returncode, done.stdout) == (1, "['-c', 'one']\n")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_the_environment_is_its_own():
    code = "import os; print(os.environ['GIVEN']); os.environ['LEFT'] = 'x'"
    assert run_command([sys.executable, "-c", code], env=os.environ | {"GIVEN": "here"}).stdout == "here\n"
    assert run_command([sys.executable, "-c", "import os; print(os.environ.get('LEFT'))"]).stdout == "None\n"


def test_a_variable_that_is_gone_is_not_given(monkeypatch):
    code = "import os; print(os.environ.get('GIVEN'))"
    monkeypatch.setenv("GIVEN", "here")
    assert run_command([sys.executable, "-c", code]).stdout == "here\n"
    monkeypatch.delenv("GIVEN")
    assert run_command([sys.executable, "-c", code]).stdout == "None\n"
    path = {"PATH": os.environ["PATH"]}
    assert run_command([sys.executable, "-c", "import os; print(sorted(os.environ))"], env=path).stdout == "['PATH']\n"


def test_signals_end_it_and_nothing_is_left():
    with started(SLEEPING) as process:
        assert isinstance(process, Forked) and process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
    with started(SLEEPING) as process:
        pass
    for _ in range(1000):
        if not psutil.pid_exists(process.pid):
            break
        time.sleep(0.01)
    assert not psutil.pid_exists(process.pid) and process.returncode == -signal.SIGKILL
