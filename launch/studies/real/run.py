"""Real videos, from index.csv to tables: TSN, TSM, GST and VPSN on Weizmann and UT-Interaction, folds of whole groups.

    python -m launch.studies.real --data DATA                     # all that has no result yet; stopped, it continues
    python -m launch.studies.real --data DATA --write-index       # first: index.csv from the names of the clips
    python -m launch.studies.real --data DATA --experiments action --sets ut1 --networks tsn vpsn --seeds 0 1
    python -m launch.studies.real --data DATA --tune              # the optimizers and rates that were tried
    python -m launch.studies.real --report-only                   # docs/real_videos.md from the results there are

DATA holds weizmann/ and ut_interaction/. Results are files in docs/real, a file for all folds of a network on a set.
"""

import json
import os
import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jsonargparse.typing import NonNegativeInt, PositiveInt
from tqdm import tqdm

from launch.studies.commands import run_logged
from launch.studies.real.clips import INDEX, make_folds, read_clips, write_index
from launch.studies.real.data import make_motion, prepare, pretrain
from launch.studies.real.folds import settings_of
from launch.studies.real.report import write_page
from launch.studies.real.rows import EXPERIMENTS, NETWORKS, SETS, TUNING, TUNING_SEED, Row, packed_split
from launch.studies.settings import agree
from launch.training.config_parser import parse_config
from sharding.cli import CommandLine
from sharding.cores import available_cores
from sharding.errors import UserError
from sharding.manifest import load_manifest


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    for name, known in (("experiments", EXPERIMENTS), ("sets", SETS), ("networks", NETWORKS)):
        unknown = [value for value in getattr(options, name) if value not in known]
        if unknown:
            raise UserError(f"--{name} {unknown[0]}: allowed are {', '.join(known)}")
    if options.report_only:
        print(write_page())
        return
    data = options.data
    if data is None:
        raise UserError("--data: give the folder that holds weizmann/ and ut_interaction/")
    if options.write_index:
        for folder in dict.fromkeys(SETS[name].folder for name in options.sets):
            print(f"{data / folder / INDEX}: {write_index(data / folder)} clips")
        return
    rows = choose_rows(options)
    for videos in {row.videos.name: row.videos for row in rows}.values():
        clips = read_clips(data, videos)
        folds = make_folds(clip.group for clip in clips)
        print(f"{videos.title}: {len(clips)} clips, {len(folds)} {videos.group}s", flush=True)
    perform(rows, data, options.out, options.jobs)
    print(write_page())


def choose_rows(options) -> list[Row]:
    """Return the rows that are asked for: a seed of all before the next, all networks on a set before the next set, so
    that a part of the study is as useful as can be."""
    experiments = TUNING if options.tune else EXPERIMENTS
    names = TUNING if options.tune else options.experiments
    return [
        Row(experiment, SETS[videos], network, seed)
        for seed in ([TUNING_SEED] if options.tune else options.seeds)
        for experiment in (experiments[name] for name in _in_order(experiments, names))
        for videos in _in_order(experiment.sets, options.sets)
        for network in _in_order(experiment.networks, options.networks)
    ]


def _in_order(all_names: Collection[str], chosen: Collection[str]) -> list[str]:
    return [name for name in all_names if name in chosen]


def perform(rows: list[Row], data: Path, out: Path, jobs: int) -> None:
    """Perform the rows without a result, `jobs` at a time.

    Raises:
        UserError: a result is of other settings or other clips than are asked for.
    """
    prepare(rows, data, out)
    missing = [row for row in rows if not _is_done(row, out)]
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, available_cores() // jobs))}
    with ThreadPoolExecutor(jobs) as pool:
        _perform_all([row for row in missing if not row.experiment.is_pretrained], data, out, environment, pool)
        pretrained = [row for row in missing if row.experiment.is_pretrained]
        if pretrained:
            make_motion(out)
            networks = dict.fromkeys(row.network for row in pretrained)
            list(pool.map(lambda network: pretrain(network, out, environment), networks))
        _perform_all(pretrained, data, out, environment, pool)


def _perform_all(rows: list[Row], data: Path, out: Path, environment: dict[str, str], pool: ThreadPoolExecutor) -> None:
    done = pool.map(lambda row: _perform(row, data, out, environment), rows)
    for row, _ in zip(rows, tqdm(done, total=len(rows), unit="row", disable=None)):
        folds = json.loads(row.result.read_text())["folds"].values()
        right = [label == predicted for fold in folds for label, predicted in fold["predictions"].values()]
        tqdm.write(f"{row.result}: {sum(right)} of {len(right)} right")
        if row.experiment.name in EXPERIMENTS:
            write_page()


def _perform(row: Row, data: Path, out: Path, environment: dict[str, str]) -> None:
    folder = row.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "launch.studies.real.folds", f"--row={row.name}", f"--data={data}", f"--out={out}"]
    run_logged(command, environment, folder / "study.log")


def _is_done(row: Row, out: Path) -> bool:
    if not row.result.exists():
        return False
    result = json.loads(row.result.read_text())
    config = parse_config("launch/train.py", row.arguments(out, with_weights=False))
    fingerprint = load_manifest(packed_split(out, row.experiment.task, row.videos.name)).fingerprint
    if result["fingerprint"] != fingerprint or not agree(result["config"], settings_of(config, row)):
        raise UserError(f"{row.result}: of other settings or clips than these; remove it to do that row again")
    return True


def _parser() -> CommandLine:
    parser = CommandLine(prog="python -m launch.studies.real", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path | None, default=None, help="Folder that holds weizmann/ and ut_interaction/.")
    add("--out", type=Path, default=Path("runs/real"), help="Folder for packed sets and runs.")
    add("--experiments", type=tuple[str, ...], default=tuple(EXPERIMENTS), help=f"Of {', '.join(EXPERIMENTS)}.")
    add("--sets", type=tuple[str, ...], default=tuple(SETS), help=f"Of {', '.join(SETS)}.")
    add("--networks", type=tuple[str, ...], default=tuple(NETWORKS), help=f"Of {', '.join(NETWORKS)}.")
    add("--seeds", type=tuple[NonNegativeInt, ...], default=(0,), help="Seeds of the rows.")
    add("--jobs", type=PositiveInt, default=available_cores(), help="Rows at a time; they share the cores.")
    add("--tune", type=bool, default=False, help="Instead, the optimizers and learning rates that were tried.")
    add("--write-index", type=bool, default=False, help="Only write index.csv, from the names of the clips.")
    add("--report-only", type=bool, default=False, help="Run nothing; write the page.")
    return parser
