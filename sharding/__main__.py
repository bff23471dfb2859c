"""python -m sharding {pack,index,verify,stats,motion,…}: packs datasets, checks and describes them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharding.cli import CommandLine, run_command
from sharding.cores import available_cores
from sharding.errors import UserError

if TYPE_CHECKING:
    from sharding.pack import PackResult

_DESCRIPTION = """\
Pack video datasets into tar shards, once, for training. pack makes them, index takes those that others made, verify
checks them, stats describes them, motion, motion-gym and motion-multilabel write synthetic datasets to try everything
on. Each has its own --help."""

_PACK_EXAMPLE = (
    "python -m sharding pack --dataset kinetics --videos k400/videos --annotations train.csv val.csv --split train "
    "--out data/k400"
)


def main(arguments: list[str] | None = None) -> int:
    parser = CommandLine(prog="python -m sharding", description=_DESCRIPTION)
    commands = parser.add_subcommands(required=True, dest="command")
    for name, (summary, add_options, _) in _COMMANDS.items():
        subparser = CommandLine(description=summary[0].upper() + summary[1:] + ".")
        add_options(subparser)
        parser.add_command(commands, name, subparser, summary)
    options = parser.parse_args(arguments)
    values = options[options.command].as_dict()
    return _COMMANDS[options.command][2](values) or 0


def _add_pack_options(parser: CommandLine) -> None:
    from sharding.datasets import DATASETS
    from sharding.pack import PackConfig

    parser.description = f"{parser.description} Run again after any stop, it resumes. For example: {_PACK_EXAMPLE}"
    parser.add_class_arguments(PackConfig, skip={"annotations", "decode_check", "retry_failed"})
    known = ", ".join(sorted(DATASETS))
    dataset = next(action for action in parser._actions if action.dest == "dataset")
    dataset.help = f"{dataset.help} One of {known}."
    parser.add_argument(
        "--annotations",
        nargs="+",
        default=[],
        metavar="FILE|URL",
        help="Annotation files or their URLs, as published with the dataset. With those of all splits, classes are "
        "numbered alike.",
    )

    parser.add_argument(
        "--no-decode-check",
        dest="decode_check",
        action="store_false",
        help="Do not decode what is stored as it came (copy; JPEG files under jpeg); damage is then found in training.",
    )
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="Try the videos again that failed in finished shards, even if the split is complete.",
    )


def _run_pack(values: dict[str, Any]) -> int:
    from sharding.pack import IncompleteError, PackConfig, pack

    settings: dict[str, Any] = values | {"annotations": tuple(values["annotations"])}
    try:
        print(_describe(pack(PackConfig(**settings))))
    except IncompleteError as error:
        print(f"sharding pack: {error}", file=sys.stderr)
        return 1
    return 0


def _describe(result: "PackResult") -> str:
    if result.already_complete:
        return f"{result.location}: already complete, {result.samples} samples; nothing to do"
    return (
        f"{result.location}: {result.samples} samples in {result.shards} shards, {result.bytes:,} bytes, "
        f"{result.failures} failures; fingerprint {result.fingerprint[:16]}"
    )


def _add_index_options(parser: CommandLine) -> None:
    from sharding.index import IndexConfig

    parser.description = (
        f"{parser.description} Nothing is changed in the tars. Run again after any stop, it resumes. For example: "
        "python -m sharding index data/shards --label-field label"
    )
    parser.add_class_arguments(IndexConfig, skip={"shards"})
    parser.add_argument(
        "shards",
        nargs="+",
        metavar="DIR|URL",
        help="Folder of the tar files, or the files, or the URL of a folder (s3://, gs://, https://).",
    )


def _run_index(values: dict[str, Any]) -> int:
    from sharding.index import IndexConfig, index
    from sharding.pack import IncompleteError

    settings: dict[str, Any] = values | {"shards": tuple(values["shards"])}
    try:
        result = index(IndexConfig(**settings))
    except IncompleteError as error:
        print(f"sharding index: {error}", file=sys.stderr)
        return 1
    print(_describe(result))
    return 0


def _add_verify_options(parser: CommandLine) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="Folder of a packed split.")
    parser.add_argument("--decode", action="store_true", help="Decode every frame of every sample, as in training.")
    parser.add_argument(
        "--quarantine",
        action="store_true",
        help="Add bad samples to quarantine.jsonl, which training and evaluation leave out; no shard is changed.",
    )
    parser.add_argument(
        "--upgrade",
        action="store_true",
        help="First write the index of frames (frames.npy) that splits packed before version 0.2 lack; no shard is "
        "changed.",
    )
    parser.add_argument(
        "--workers", type=int, default=available_cores(), help="Processes that check shards at the same time."
    )


def _run_verify(values: dict[str, Any]) -> int:
    from sharding.manifest import QUARANTINE
    from sharding.packing.frame_index import add_frame_index
    from sharding.verify import verify

    if values.pop("upgrade") and add_frame_index(values["directory"]):
        print(f"{values['directory']}: index of frames written")
    report = verify(**values)
    for problem in report.problems:
        print(problem)
    done = "decoded" if values["decode"] else "checked"
    labels = "" if report.has_labels else " without labels"
    if report.num_labels is not None:
        labels = f" with {report.num_labels} labels"
    print(
        f"{report.directory}: {report.samples} samples{labels} in {report.shards} shards {done}, "
        f"{len(report.bad_samples)} bad samples, {len(report.other_problems)} other problems"
    )
    if report.num_quarantined is not None:
        path = report.directory / QUARANTINE
        print(f"{path}: {report.num_quarantined} samples added; training and evaluation leave them out")
    return 0 if report.ok else 1


def _add_stats_options(parser: CommandLine) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="Folder of a packed split.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of text.")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="Also write a page with plots and thumbnails of every class."
    )
    parser.add_argument("--thumbnails", type=int, default=4, help="Samples shown of each class in the page.")


def _run_stats(values: dict[str, Any]) -> None:
    from sharding.files import check_writable, write_atomically
    from sharding.stats import measure, to_text

    if values["thumbnails"] < 0:
        raise UserError(f"--thumbnails {values['thumbnails']}: use 0 or more")
    if values["html"]:
        check_writable(values["html"])
    stats, dataset = measure(values["directory"])
    print(stats.to_json() if values["json"] else to_text(stats))
    if values["html"]:
        from sharding.stats_page import to_page

        write_atomically(values["html"], to_page(stats, dataset, values["thumbnails"]))


def _add_motion_options(parser: CommandLine) -> None:
    from sharding.synthetic.motion import MotionConfig

    parser.add_class_arguments(MotionConfig)


def _run_motion(values: dict[str, Any]) -> None:
    from sharding.synthetic.motion import MotionConfig, write_motion

    write_motion(MotionConfig(**values))


def _add_motion_gym_options(parser: CommandLine) -> None:
    from sharding.synthetic.motion_hierarchy import MotionGymConfig

    parser.add_class_arguments(MotionGymConfig)


def _add_motion_multilabel_options(parser: CommandLine) -> None:
    from sharding.synthetic.motion_multilabel import MotionMultilabelConfig

    parser.add_class_arguments(MotionMultilabelConfig)


def _run_motion_multilabel(values: dict[str, Any]) -> None:
    from sharding.synthetic.motion_multilabel import MotionMultilabelConfig, write_motion_multilabel

    write_motion_multilabel(MotionMultilabelConfig(**values))


def _run_motion_gym(values: dict[str, Any]) -> None:
    from sharding.synthetic.motion_hierarchy import MotionGymConfig, write_motion_gym

    write_motion_gym(MotionGymConfig(**values))


_COMMANDS: dict[str, tuple[str, Callable[[CommandLine], None], Callable[[dict[str, Any]], int | None]]] = {
    "pack": ("pack one split of a dataset into tar shards", _add_pack_options, _run_pack),
    "index": ("make a training set of WebDataset shards that others made", _add_index_options, _run_index),
    "verify": ("check a packed split: bytes, hashes, index, table, labels", _add_verify_options, _run_verify),
    "stats": ("describe a packed split", _add_stats_options, _run_stats),
    "motion": ("write a synthetic dataset in which only motion reveals the class", _add_motion_options, _run_motion),
    "motion-gym": ("write motions with labels on three levels, as FineGym", _add_motion_gym_options, _run_motion_gym),
    "motion-multilabel": (
        "write several motions at once in a video, each a label",
        _add_motion_multilabel_options,
        _run_motion_multilabel,
    ),
}


if __name__ == "__main__":
    run_command(main, "python -m sharding")
