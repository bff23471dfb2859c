"""Commands of the project, run as processes that do not import everything again.

A start of `python launch/train.py` spends seconds on imports before it does anything. Here one process for all tests of
a worker has imported what the commands need, and each command runs in a fork of it: with its own memory, environment,
output, signals and exit code, and with the file's `__main__` part, but without the imports.

    run_command([sys.executable, "launch/train.py", "--config=x.yaml"]).returncode
    with started([sys.executable, "launch/train.py", "--config=x.yaml"]) as process: ...

Programs that are not the project's run as they are, and so do all where a GPU is, whose driver does not survive a fork.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HAS_GPU = Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
PRELOADED = ("launch.train", "launch.evaluate", "launch.predict", "launch.visualize", "launch.export")
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([*PRELOADED, "launch.benchmark", "launch.ensemble", "sharding.pack", "sharding.verify"])


class Forked:
    """A Python command in a fork, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None, stderr: int | None = None, **_) -> None:
        """`stderr=subprocess.STDOUT` mixes both outputs; all others are kept for `communicate` in any case."""
        self._folder = tempfile.TemporaryDirectory(prefix="vpsn-command-")
        files = [str(Path(self._folder.name) / name) for name in ("out", "err")]
        self._files = files if stderr != subprocess.STDOUT else files[:1] * 2
        self._process = FORKS.Process(target=_run, args=(command[1:], dict(env or os.environ), *self._files))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        output, errors = (Path(file).read_text() if Path(file).exists() else "" for file in self._files)
        return output, errors if self._files[0] != self._files[1] else ""

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = subprocess.Popen | Forked


def run_command(
    arguments: Sequence[object], fresh: bool = False, timeout: float = 600, **options
) -> subprocess.CompletedProcess:
    """Run a command in the project's root and return what it did, with its output as text.

    Args:
        arguments: the program and its arguments.
        fresh: start a new interpreter, as a user does.
        timeout: seconds.
        options: `env`, the environment.
    """
    command = [str(argument) for argument in arguments]
    if fresh or HAS_GPU or not _is_ours(command):
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, **options)
    with started(command, **options) as process:
        output, errors = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)


@contextmanager
def started(arguments: Sequence[object], fresh: bool = False, **options) -> Iterator[Process]:
    """A command as the leader of a process group, of which nothing is left in the end; options as of `Popen`."""
    command = [str(argument) for argument in arguments]
    if _is_ours(command) and not fresh and not HAS_GPU:
        process = Forked(command, **options)
    else:
        kept = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} if _is_ours(command) else {}
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, text=True, **(kept | options))
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()  # a fork that is not yet the leader of its group
        process.communicate()


def _is_ours(command: list[str]) -> bool:
    return command[0] == sys.executable and (
        command[1].startswith("launch/") or command[1:3] == ["-m", "sharding"] or command[1] == "-c"
    )


def _run(arguments: list[str], environment: dict[str, str], output: str, errors: str) -> None:
    """What the fork does: become the leader of a group, then what `python ARGUMENTS` would be."""
    os.setsid()
    for path, number in ((output, 1), (errors, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()  # of the first command that was forked
    os.environ.update(environment)
    os.chdir(ROOT)
    code: object = 1
    try:
        _execute(arguments)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    # As an interpreter ends; multiprocessing would wait for pools that only their exit functions shut down.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def _execute(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<command>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
