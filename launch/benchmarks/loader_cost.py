"""What a clip costs: processor time, interpreter lock, the training thread, bytes read; and rates of more workers."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from launch.benchmarks.loader_stages import measure_workers
from pipeline.config import DataConfig
from pipeline.cores import cores_per_rank
from pipeline.loader import VideoLoader
from sharding.dataset import PackedDataset

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class LoaderCost:
    """Of one clip, on the average of a measurement; times in milliseconds."""

    clips_per_second: float
    cpu: float
    """Of all processes and threads of the loader."""
    cpu_workers: float
    training_thread: float
    """That the thread which takes the batches was busy with taking them."""
    python_threads: float
    """Of this process's threads that run Python: no less than they hold the interpreter lock."""
    lock: float | None
    """That the interpreter lock was held, as py-spy samples it; None where that is not installed or not allowed."""
    bytes_read: float
    workers_bytes: int
    """Memory of the workers, shared parts counted once, at the end."""


def measure_cost(
    dataset: PackedDataset, config: DataConfig, batch_size: int, seconds: float, device: torch.device
) -> LoaderCost:
    """Run the training loader for some seconds, after an epoch's beginning that is not counted."""
    options = {"training": True, "micro_batch_size": min(batch_size, len(dataset.kept)), "device": device}
    with VideoLoader(dataset, config, **options) as loader:
        batches = _forever(loader)
        for _ in range(config.prefetch_batches + 4):
            next(batches)
        pids = loader.worker_process_ids or [os.getpid()]
        with _lock_sampler(seconds) as sampled:
            before, began, busy = _Counters.now(pids), time.perf_counter(), time.thread_time()
            clips = 0
            while time.perf_counter() - began < seconds:
                clips += len(next(batches).sample_ids)
            elapsed, busy = time.perf_counter() - began, time.thread_time() - busy
            after = _Counters.now(pids)
        held = sampled()
        own = after.own_cpu - before.own_cpu
        workers = after.workers_cpu - before.workers_cpu if loader.worker_process_ids else 0.0
        return LoaderCost(
            clips_per_second=clips / elapsed,
            cpu=1e3 * (own + workers) / clips,
            cpu_workers=1e3 * workers / clips,
            training_thread=1e3 * busy / clips,
            python_threads=1e3 * (after.python_cpu - before.python_cpu) / clips,
            lock=None if held is None else 1e3 * held * elapsed / clips,
            bytes_read=(after.bytes_read - before.bytes_read) / clips,
            workers_bytes=sum(map(proportional_memory, loader.worker_process_ids)),
        )


def measure_scaling(
    dataset: PackedDataset, config: DataConfig, decoder: str, batch_size: int, seconds: float, rounds: int = 1
) -> dict[int, float]:
    """Return the workers' clips/s by their number, from 1 to the cores there are; each has a core."""
    numbers = range(1, cores_per_rank() + 1)
    rates: dict[int, list[float]] = {number: [] for number in numbers}
    config = replace(config, worker_type="process")
    for _ in range(rounds):
        for number in numbers:
            rates[number].append(measure_workers(dataset, config, decoder, batch_size, seconds, number, pinned=True))
    return {number: float(np.median(values)) for number, values in rates.items()}


def extrapolate(rates: dict[int, float], cores: tuple[int, ...] = (8, 16, 24)) -> dict[int, float]:
    """Return clips/s at other numbers of workers, on the straight line through those measured.

    >>> extrapolate({1: 100.0, 2: 190.0}, (8,))
    {8: 730.0}
    """
    numbers = list(rates)
    if len(numbers) == 1:
        return {count: rates[numbers[0]] * count / numbers[0] for count in cores}
    slope, offset = np.polyfit(numbers, [rates[number] for number in numbers], 1)
    return {count: round(float(offset + slope * count), 1) for count in cores}


def _forever(loader: VideoLoader) -> Iterator:
    while True:
        yield from loader


@dataclass(frozen=True)
class _Counters:
    """Processor seconds and bytes that the kernel has counted."""

    own_cpu: float
    workers_cpu: float
    python_cpu: float
    bytes_read: int

    @classmethod
    def now(cls, pids: list[int]) -> "_Counters":
        tasks = [Path(f"/proc/self/task/{thread.native_id}/stat") for thread in threading.enumerate()]
        return cls(
            own_cpu=time.process_time(),
            workers_cpu=sum(_cpu(Path(f"/proc/{pid}/stat")) for pid in pids),
            python_cpu=sum(_cpu(path) for path in tasks),
            bytes_read=sum(_bytes_read(pid) for pid in pids),
        )


def _cpu(stat: Path) -> float:
    """Return the seconds of processor time of a process or a thread; 0 if it has ended in the meantime."""
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICK


def _bytes_read(pid: int) -> int:
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise AssertionError("/proc/PID/io without rchar")


def proportional_memory(pid: int) -> int:
    """Return the bytes of memory of a process, what it shares with others divided among them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("smaps_rollup without Pss")


@contextmanager
def _lock_sampler(seconds: float) -> Iterator:
    """Sample who holds the interpreter lock of this process; yield what returns the fraction of samples held, later."""
    program = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if program is None:
        yield lambda: None
        return
    with tempfile.TemporaryDirectory() as folder:
        file, rate = Path(folder) / "samples", 500
        command = [program, "record", "--gil", f"--pid={os.getpid()}", f"--duration={round(seconds)}"]
        command += [f"--rate={rate}", "--format=raw", f"--output={file}", "--nonblocking"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sampler:
            time.sleep(0.5)

            def fraction() -> float | None:
                if sampler.wait() or not file.exists():
                    return None
                held = sum(int(line.rpartition(" ")[2]) for line in file.read_text().splitlines())
                return held / (rate * round(seconds))

            yield fraction
