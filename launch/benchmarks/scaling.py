"""How training gains by more ranks: short real runs of `launch/train.py` on this machine."""

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from launch.benchmarks.options import ROOT, RanksOptions, find_recipe
from launch.benchmarks.report import conditions, table
from launch.training.distributed import free_port
from launch.training.run_log import read_metrics
from pipeline.cores import cores_per_rank
from sharding.errors import UserError

LINE_STEPS, WARM_UP_LINES = 5, 1


@dataclass(frozen=True)
class RankSpeed:
    """Of one number of ranks."""

    ranks: int
    clips_per_second: float
    """Of all ranks, the median over the lines of the log but the first."""
    loading_share: float
    """Of the time, waiting for data; median."""


def measure_ranks(config: Path, data: Path, numbers: tuple[int, ...], rounds: int) -> list[RankSpeed]:
    """Train an epoch with each number of ranks, interleaved, each rank with as many threads.

    On a CPU a rank gets as many cores as with the largest number, so that one rank does not use what two would.

    Raises:
        UserError: a run failed.
    """
    threads = 0 if torch.cuda.is_available() else max(1, cores_per_rank() // max(numbers))
    lines: dict[int, list[dict]] = {ranks: [] for ranks in numbers}
    with tempfile.TemporaryDirectory(prefix="vpsn-benchmark-") as scratch:
        for round_number in range(rounds):
            for ranks in numbers:
                run_dir = Path(scratch) / f"{ranks}-{round_number}"
                lines[ranks] += _train(config, data, ranks, run_dir, threads)[WARM_UP_LINES:]
    return [
        RankSpeed(
            ranks,
            statistics.median(line["clips_per_second"] for line in found),
            statistics.median(line["loading_share"] for line in found),
        )
        for ranks, found in lines.items()
    ]


def _train(config: Path, data: Path, ranks: int, run_dir: Path, threads: int) -> list[dict]:
    """Return the lines that training logs."""
    launcher = [str(Path(sys.executable).with_name("deepspeed")), f"--num_gpus={ranks}", f"--master_port={free_port()}"]
    options = [f"--config={config}", f"--data.train={data}", "--data.val=null", f"--run_dir={run_dir}"]
    options += ["--train.epochs=1", f"--train.log_every_steps={LINE_STEPS}", "--schedule.warmup_epochs=0"]
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    options += [f"--data.num_workers={threads}"] if threads else []
    command = [*launcher, str(ROOT / "launch" / "train.py"), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"--config {config}: training with {ranks} rank(s) failed: {done.stderr.strip()[-300:]}")
    lines = [line for line in read_metrics(run_dir) if line["kind"] == "train"]
    if len(lines) <= WARM_UP_LINES:
        steps = LINE_STEPS * (WARM_UP_LINES + 1)
        raise UserError(f"--data {data}: an epoch has fewer than {steps} steps, too few to measure; take more videos")
    return lines


def ranks(options: RanksOptions) -> None:
    """Print how training gains by more ranks."""
    speeds = measure_ranks(find_recipe(options.config), options.data, options.numbers, options.rounds)
    rows = [
        (
            speed.ranks,
            f"{speed.clips_per_second:.1f}",
            f"{speed.clips_per_second / speeds[0].clips_per_second:.2f}",
            f"{speed.loading_share:.1%}",
        )
        for speed in speeds
    ]
    print(f"{options.config}, {options.rounds} epoch(s) each; {conditions()}")
    print(table(("ranks", "clips/s", f"/ {options.numbers[0]} rank(s)", "waiting for data"), rows))
