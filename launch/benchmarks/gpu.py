"""All that a GPU can show of this project in under seven minutes, as one JSON.

Each part is a process with its own limit of time, so that a crash loses that part alone; they come in the order of what
is missed first if the time runs out, and the JSON is written again after each.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from launch.benchmarks import gpu_parts
from launch.benchmarks.gpu_parts import Check
from launch.benchmarks.options import ROOT, GpuOptions
from launch.inference.pack_files import list_videos
from sharding.errors import UserError
from sharding.files import check_writable, write_atomically

PARTS: dict[str, tuple[int, Callable[..., dict], tuple]] = {
    "machine": (40, gpu_parts.machine, ()),
    "pack": (75, gpu_parts.pack, ()),
    "feed.h264.pyav.8": (30, gpu_parts.feed, ("h264", "pyav", 8)),
    "feed.jpeg.jpeg.8": (30, gpu_parts.feed, ("jpeg", "jpeg", 8)),
    "feed.jpeg.nvjpeg.8": (30, gpu_parts.feed, ("jpeg", "nvjpeg", 8)),
    "train.h264.pyav": (75, gpu_parts.train, ("h264", "pyav")),
    "steps.8": (60, gpu_parts.steps, (8, 32)),
    "handover": (40, gpu_parts.handover, ("h264", "pyav")),
    "waits": (40, gpu_parts.waits, ("h264", "pyav")),
    "tests": (240, gpu_parts.tests, ()),
    "feed.h264.nvdec.8": (30, gpu_parts.feed, ("h264", "nvdec", 8)),
    "train.jpeg.nvjpeg": (75, gpu_parts.train, ("jpeg", "nvjpeg")),
    "stages.pyav": (40, gpu_parts.stages, ("h264", "pyav")),
    "stages.nvjpeg": (40, gpu_parts.stages, ("jpeg", "nvjpeg")),
    "feed.h264.pyav.16": (30, gpu_parts.feed, ("h264", "pyav", 16)),
    "steps.16": (60, gpu_parts.steps, (16, 16)),
}
"""The limit of each part in seconds, its function and its arguments."""


def gpu(options: GpuOptions) -> None:
    """Run `launch/benchmark.py gpu`."""
    numbers = {name: getattr(options, name) for name in ("num_videos", "batch_size", "depth", "num_steps")}
    check = Check(options.work.resolve(), options.videos.resolve(), seconds=options.loader_seconds, **numbers)
    check_writable(options.out)
    list_videos(check.videos)
    check_gpu(check, options.out, options.seconds, options.only, options.patience)


def check_gpu(check: Check, out: Path, seconds: float, only: Sequence[str] = (), patience: float = 1.0) -> dict:
    """Run the parts whose names begin with one of `only`, or all, for at most `seconds`; return the report.

    Args:
        patience: what the parts' limits are multiplied by.

    Raises:
        UserError: `only` names no part, or there is no empty folder to pack in.
    """
    unknown = [name for name in only if not any(part.startswith(name) for part in PARTS)]
    if unknown:
        raise UserError(f"--only {unknown[0]}: the parts are {', '.join(PARTS)}; give the beginnings of names")
    chosen = [part for part in PARTS if not only or any(part.startswith(name) for name in only)]
    check.work.mkdir(parents=True, exist_ok=True)
    if "pack" in chosen and any(check.work.iterdir()):
        raise UserError(f"--work {check.work}: not empty, from an earlier check perhaps; remove it or name another")
    report: dict = {"began": time.strftime("%F %T"), "settings": asdict(check) | {"work": "", "videos": ""}}
    deadline = time.monotonic() + seconds
    for name in chosen:
        left = deadline - time.monotonic()
        limit = min(patience * PARTS[name][0], left)
        report[name] = _run_part(name, check, limit) if left > 10 else {"skipped": "no time left"}
        write_atomically(out, json.dumps(report, indent=1) + "\n")
        print(name, json.dumps(report[name])[:500], flush=True)
    return report


def _run_part(name: str, check: Check, limit: float) -> dict:
    began, log = time.monotonic(), check.work / f"{name}.log"
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    settings = json.dumps(asdict(check), default=str)
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "launch.benchmarks.gpu", name, settings],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = "out of time"
        finally:
            _end_session(process)
    lines = log.read_text(errors="replace").splitlines()
    found = next((json.loads(line[7:]) for line in reversed(lines) if line.startswith("RESULT ")), None)
    if code != 0 or found is None:
        found = {"failed": code, "log": lines[-25:]}
    return found | {"took": round(time.monotonic() - began, 1)}


def _end_session(process: subprocess.Popen) -> None:
    """End a process and whatever it has left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main(name: str, settings: str) -> None:
    """Run a part, in this process."""
    values = json.loads(settings)
    check = Check(**values | {"work": Path(values["work"]), "videos": Path(values["videos"])})
    _, function, arguments = PARTS[name]
    print("RESULT " + json.dumps(function(check, *arguments)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
