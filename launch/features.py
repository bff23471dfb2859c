"""Features of videos from any stage of a trained network: an array for each video, and one table of all.

    python launch/features.py --checkpoint runs/k400 --out features/ --window 2 --stride 1 untrimmed/
    python launch/features.py --checkpoint runs/k400 --out features/ --stage layer3 clips/
    deepspeed --num_gpus 8 launch/features.py --checkpoint runs/k400 --out features/ --data shards/k400/val

Run again it continues with what is not there yet. Over any number of ranks it writes the same.
"""

import argparse
from pathlib import Path
from typing import Literal

from launch.training.launcher import errors_once
from launch.training.rank_environment import adopt_launcher
from sharding.cli import CommandLine, run_command
from sharding.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    with errors_once():
        adopt_launcher()
        options = _parser().parse_args(arguments)
        _check(options)
        # torch, once the options are known to be right
        from launch.inference.feature_run import FeatureOptions, extract
        from launch.inference.windows import WindowOptions

        windows = None
        if options.window is not None:
            windows = WindowOptions(options.window, options.stride or options.window, cover_end=False)
        return extract(
            FeatureOptions(
                checkpoint=options.checkpoint,
                out=options.out,
                videos=options.videos,
                data=options.data,
                stage=options.stage,
                windows=windows,
                clips=options.clips,
                crops=options.crops,
                batch_size=options.batch_size,
            )
        )


def _check(options) -> None:
    """Raise UserError for numbers that are out of range, and options that exclude each other."""
    for name in ("clips", "batch_size"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: use 1 or more")
    for name in ("window", "stride"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name} {value:g}: use seconds, more than 0")
    if options.stride is not None and options.window is None:
        raise UserError("--stride: it is of windows; give their length with --window SECONDS, or leave it out")
    if bool(options.videos) == bool(options.data):
        raise UserError("give either video files and folders, or --data SHARDS")
    if options.data and options.window is not None:
        raise UserError("--window: packed samples are seen as wholes; give the video files, or leave it out")


def _parser() -> CommandLine:
    parser = CommandLine(prog="launch/features.py", description="Features of videos from a trained network.")
    videos_help = "Video files, folders to be searched for videos, or quoted patterns such as 'clips/**/*.mp4'."
    parser.add_argument("videos", type=str, nargs="*", metavar="VIDEO", help=videos_help)
    parser.add_argument("--data", type=str | None, default=None, help="Folder or URL of a packed split, instead.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="Run folder (its best) or checkpoint.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the features.")
    stage_help = "Stage whose output is averaged over pixels and frames; pool: what the classifier sees."
    parser.add_argument(
        "--stage", type=Literal["layer1", "layer2", "layer3", "layer4", "pool"], default="pool", help=stage_help
    )
    window_help = "A row for every so many seconds of each video; by default one for each clip of it."
    parser.add_argument("--window", type=float | None, default=None, metavar="SECONDS", help=window_help)
    stride_help = "Seconds from one window to the next; default: the length of a window."
    parser.add_argument("--stride", type=float | None, default=None, metavar="SECONDS", help=stride_help)
    clips_help = "Clips of each video, evenly shifted in time, a row for each; of a window their mean."
    parser.add_argument("--clips", type=int, default=1, help=clips_help)
    parser.add_argument("--crops", type=Literal[1, 3, 10], default=1, help="Crops of each clip, averaged: 1, 3 or 10.")
    parser.add_argument("--batch-size", type=int, default=16, help="Clips per forward pass on each rank.")
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)  # set by the launcher
    return parser


if __name__ == "__main__":
    run_command(main, "launch/features.py")
