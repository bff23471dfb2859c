"""The controlled experiment: every architecture and every part of the synthesizer at one budget, on generated videos.

    python -m launch.studies.ablation                 # all that has no result yet, then RESULTS.md; stopped, it resumes
    python -m launch.studies.ablation --budgets short --rows tsn vpsn --seeds 0
    python -m launch.studies.ablation --tune                # the learning rates that were tried for TSN
    python -m launch.studies.ablation --report-only         # RESULTS.md and its pictures from the results there are

A run is `launch/train.py` with launch/configs/ablation/experiment.yaml and the options of its row and its budget, then
`launch/evaluate.py`; its result is a file in docs/experiment. Nothing but the options of the row and the seed differs
between two runs of a budget.
"""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from itertools import repeat
from pathlib import Path

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from tqdm import tqdm

from launch.benchmarks.report import conditions
from launch.studies.ablation.report import write_results
from launch.studies.ablation.rows import (
    BUDGETS,
    CONFIG,
    DATA,
    LONG,
    NUM_SIZES,
    RESULTS,
    ROWS,
    RUNS,
    SHORT,
    SPLITS,
    TUNED_RATES,
    TUNING_SEED,
    VIDEOS,
    Budget,
)
from launch.studies.commands import run_logged
from launch.studies.settings import agree
from launch.training.config import Config
from launch.training.config_parser import parse_config
from launch.training.distributed import free_port
from launch.training.option_names import with_current_names
from launch.training.run_log import read_metrics
from model.complexity import measure
from sharding.cli import CommandLine
from sharding.cores import available_cores
from sharding.errors import UserError
from sharding.files import write_atomically
from sharding.manifest import load_manifest


@dataclass(frozen=True)
class Run:
    """A row with a seed and a budget."""

    name: str
    options: tuple[str, ...]
    """Of the row."""
    seed: int
    budget: Budget = SHORT

    @property
    def run_dir(self) -> Path:
        return RUNS / self.budget.folder / f"{self.name}-{self.seed}"

    @property
    def result(self) -> Path:
        return RESULTS / self.budget.folder / f"{self.name}-{self.seed}.json"

    def arguments(self) -> list[str]:
        """Return the arguments of `launch/train.py`."""
        own = (*self.options, *self.budget.options, f"--train.seed={self.seed}", f"--run_dir={self.run_dir}")
        return [f"--config={CONFIG}", *own]

    def config(self) -> Config:
        return parse_config("launch/train.py", self.arguments())


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    for option, known in (("rows", ROWS), ("budgets", BUDGETS)):
        unknown = [name for name in getattr(options, option) if name not in known]
        if unknown:
            raise UserError(f"--{option} {unknown[0]}: allowed are {', '.join(known)}")
    runs = choose_runs(options)
    if not runs:
        raise UserError(f"--rows {options.rows[0]}: of no such budget; allowed are {', '.join(LONG.rows)}")
    if not options.report_only:
        make_data()
        perform(runs, options.jobs)
    if not options.tune:
        print(write_results())


def choose_runs(options) -> list[Run]:
    """Return the runs: a seed of all rows before the next, so that a part of the experiment is as useful as can be, and
    the short budget before the long one."""
    if options.tune:
        rates = [(f"tune_{rate:g}", ("--model.arch=tsn", f"--optimizer.learning_rate={rate}")) for rate in TUNED_RATES]
        return [Run(name, chosen, TUNING_SEED) for name, chosen in rates]
    return [
        Run(name, ROWS[name].options, seed, budget)
        for budget in BUDGETS.values()
        if budget.name in options.budgets
        for seed in options.seeds
        for name in budget.rows
        if name in options.rows
    ]


def make_data() -> None:
    """Write and pack the videos that are not there yet."""
    sharding = (sys.executable, "-m", "sharding")
    for split, options in SPLITS.items():
        videos, packed = DATA / "videos", DATA / "packed"
        if not (packed / split / "manifest.json").exists():
            if not (videos / split).exists():
                run_logged([*sharding, "motion", f"--out={videos}", f"--split={split}", *options, *VIDEOS])
            pack = ["pack", "--dataset=folder", f"--videos={videos / split}", f"--split={split}", f"--out={packed}"]
            run_logged([*sharding, *pack])


def perform(runs: list[Run], jobs: int) -> None:
    """Perform those without a result, `jobs` at a time.

    Raises:
        UserError: a result is of other settings or other data than are asked for.
    """
    missing = [run for run in runs if not _is_done(run)]
    configs = [run.config() for run in missing]  # parsing changes the working folder, of all threads, for a moment
    threads = max(1, available_cores() // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        done = pool.map(_perform, missing, configs, repeat(threads))
        for run, _ in zip(missing, tqdm(done, total=len(missing), unit="run", disable=None)):
            if run.name in ROWS:
                write_results()
            tqdm.write(f"{run.result}: top-1 {json.loads(run.result.read_text())['top1']:.2%}")


def _is_done(run: Run) -> bool:
    if not run.result.exists():
        return False
    result = json.loads(run.result.read_text())
    if result["fingerprints"] != _fingerprints() or not same_settings(result["config"], run.config()):
        raise UserError(f"{run.result}: of other settings or videos than these; remove it to do that run again")
    return True


def _perform(run: Run, config: Config, threads: int) -> None:
    """Train, evaluate, and write the result."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    deepspeed = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus=1", f"--master_port={free_port()}"]
    run.run_dir.mkdir(parents=True, exist_ok=True)
    log = run.run_dir / "experiment.log"
    run_logged([*deepspeed, "launch/train.py", *run.arguments(), "--resume"], environment, log)
    evaluate = ["launch/evaluate.py", f"--checkpoint={run.run_dir}", f"--data={DATA / 'packed' / 'val'}"]
    run_logged([*deepspeed, *evaluate, f"--out={run.run_dir}", "--batch_size=32"], environment, log)
    evaluation = json.loads((run.run_dir / "evaluation.json").read_text())
    steps = [line for line in read_metrics(run.run_dir) if line["kind"] == "train"]
    cost = measure(config.model.without_files(), config.data.crop_size)
    confusion = torch.tensor(evaluation["confusion"])
    result = {
        "row": run.name,
        "seed": run.seed,
        "top1": evaluation["top1"],
        "motion_top1": _motion_accuracy(confusion),
        "size_top1": [_accuracy(confusion[size::NUM_SIZES], size) for size in range(NUM_SIZES)],
        "samples": evaluation["samples"],
        "training_loss": steps[-1]["classification"],
        "training_losses": [[line["step"], round(line["classification"], 4)] for line in steps],
        "mean_gates": {
            name.removeprefix("mean_gate/"): value for name, value in steps[-1].items() if name.startswith("mean_gate/")
        },
        "clips_per_second": sum(line["clips_per_second"] for line in steps) / len(steps),
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "conditions": conditions(),
        "date": date.today().isoformat(),
        "fingerprints": _fingerprints(),
        "config": _settings(config),
    }
    run.result.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(run.result, json.dumps(result, indent=1) + "\n")


def _motion_accuracy(confusion: torch.Tensor) -> float:
    """Return the fraction of samples whose motion is right, whatever the size."""
    motions = len(confusion) // NUM_SIZES
    merged = confusion.view(motions, NUM_SIZES, motions, NUM_SIZES).sum((1, 3))
    return float(merged.diag().sum() / merged.sum())


def _accuracy(rows: torch.Tensor, size: int) -> float:
    """Return the accuracy on the classes of one size, whose `rows` of the confusion matrix these are."""
    return float(sum(row[place * NUM_SIZES + size] for place, row in enumerate(rows)) / rows.sum())


def _settings(config: Config) -> dict:
    """Return all that a result follows from."""
    values = asdict(config)
    del values["run_dir"], values["resume"]
    return json.loads(json.dumps(values))


def same_settings(recorded: dict, config: Config) -> bool:
    """Return whether a result recorded with these settings is one of `config`; of options that came later nothing is
    known."""
    return agree(with_current_names(recorded), _settings(config))


def _fingerprints() -> dict[str, str]:
    return {split: load_manifest(DATA / "packed" / split).fingerprint for split in SPLITS}


def _parser() -> CommandLine:
    parser = CommandLine(prog="python -m launch.studies.ablation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=tuple[str, ...], default=tuple(ROWS), help="Only these rows.")
    names = " and ".join(f"{each.name} ({each.num_steps:,} steps)" for each in BUDGETS.values())
    parser.add_argument("--budgets", type=tuple[str, ...], default=tuple(BUDGETS), help=f"Of {names}.")
    parser.add_argument("--seeds", type=tuple[NonNegativeInt, ...], default=(0, 1, 2), help="Seeds of the rows.")
    jobs = 1 if torch.cuda.is_available() else available_cores()
    parser.add_argument("--jobs", type=PositiveInt, default=jobs, help="Runs at a time; they share the cores.")
    parser.add_argument("--tune", type=bool, default=False, help="Instead, TSN with each learning rate tried.")
    parser.add_argument("--report-only", type=bool, default=False, help="Run nothing.")
    return parser
