"""The classes of video files, of each as a whole or over time.

    python launch/predict.py --checkpoint runs/k400 clip.mp4 another.webm
    python launch/predict.py --checkpoint runs/k400 --json clips/ 'more/**/*.mp4'
    python launch/predict.py --checkpoint runs/charades --threshold 0.5 clip.mp4   # where videos have several labels
    python launch/predict.py --checkpoint runs/k400 --overlay out.mp4 clip.mp4      # the classes, drawn on the video
    python launch/predict.py --checkpoint runs/k400 --window 2 --stride 1 match.mp4 # a long one, window by window

Without --window the files go through exactly what the training data went through: they are packed, with the
checkpoint's own settings, into a temporary folder, and read from there by the loader that evaluation uses. With it they
are read once, in bounded memory, and each window is prepared in the same way, but for the loss of encoding.
"""

import json
from pathlib import Path
from typing import Literal

from sharding.cli import CommandLine, run_command
from sharding.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    _check(options)
    # torch, once the options are known to be right
    from launch.inference.pack_files import collect_videos
    from launch.inference.predictions import (
        DEFAULT_TOP,
        check_any_is_video,
        describe_row,
        predict_files,
        predict_long_files,
    )
    from launch.inference.predictor import Predictor
    from launch.inference.window_output import check_names, describe_long_row, write_activitynet, write_csv
    from launch.inference.windows import WindowOptions
    from launch.training.checkpoint import find_checkpoint
    from launch.visualization.overlay import draw_overlays, plan_overlays
    from sharding.files import check_writable

    windows = WindowOptions(options.window, options.stride or options.window) if options.window is not None else None
    find_checkpoint(options.checkpoint)
    videos = collect_videos(options.videos)
    check_any_is_video(videos)
    if options.activitynet:
        check_names(videos)
    targets = plan_overlays(videos, options.overlay) if options.overlay else []
    for target in (*targets, *filter(None, (options.csv, options.activitynet))):
        check_writable(target)
    predictor = Predictor(options.checkpoint, options.device, options.clips, options.crops)
    if windows:
        top = options.top or DEFAULT_TOP
        rows, describe = predict_long_files(predictor, videos, top, windows), describe_long_row
    else:
        rows, describe = predict_files(predictor, videos, options.top, options.threshold), describe_row
    if options.csv:
        write_csv(options.csv, rows)
    if options.activitynet:
        write_activitynet(options.activitynet, rows)
    draw_overlays(rows, videos, targets)
    print(json.dumps(rows, indent=1) if options.json else "\n".join(map(describe, rows)))
    return 1 if any("error" in row or row.get("lost") for row in rows) else 0


def _check(options) -> None:
    """Raise UserError for numbers that are out of range, and options that others do without."""
    for name, least in (("top", 1), ("clips", 1)):
        if getattr(options, name) is not None and getattr(options, name) < least:
            raise UserError(f"--{name} {getattr(options, name)}: use {least} or more")
    if options.threshold is not None and not 0 < options.threshold < 1:
        raise UserError(f"--threshold {options.threshold:g}: use more than 0 and less than 1")
    if options.threshold is not None and options.window is not None:
        raise UserError("--threshold: windows show their most probable classes; use --top, or leave out --window")
    for name in ("window", "stride"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name} {value:g}: use seconds, more than 0")
    for name in ("stride", "csv", "activitynet"):
        if options.window is None and getattr(options, name) is not None:
            raise UserError(f"--{name}: it is of windows; give their length with --window SECONDS, or leave it out")


def _parser() -> CommandLine:
    parser = CommandLine(prog="launch/predict.py", description="The classes of video files.")
    videos_help = "Video files, folders to be searched for videos, or quoted patterns such as 'clips/**/*.mp4'."
    parser.add_argument("videos", type=str, nargs="+", metavar="VIDEO", help=videos_help)
    parser.add_argument("--checkpoint", type=Path, required=True, help="Run folder (its best) or checkpoint.")
    top_help = "How many classes to show; default: 5, or all that reach --threshold."
    parser.add_argument("--top", type=int | None, default=None, help=top_help)
    threshold_help = "Show the classes from this probability on; where videos have several labels."
    parser.add_argument("--threshold", type=float | None, default=None, help=threshold_help)
    window_help = "Classify every so many seconds of each video by itself; by default the video as a whole."
    parser.add_argument("--window", type=float | None, default=None, metavar="SECONDS", help=window_help)
    stride_help = "Seconds from one window to the next; default: the length of a window."
    parser.add_argument("--stride", type=float | None, default=None, metavar="SECONDS", help=stride_help)
    clips_help = "Clips of each video or window, evenly shifted in time, whose scores are averaged."
    parser.add_argument("--clips", type=int, default=1, help=clips_help)
    parser.add_argument("--crops", type=Literal[1, 3, 10], default=1, help="Crops of each clip: 1, 3 or 10.")
    device_help = "cpu, cuda or cuda:NUMBER; default: the GPU if there is one."
    parser.add_argument("--device", type=str | None, default=None, help=device_help)
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    csv_help = "Write the classes of each window to this file, a line for each."
    parser.add_argument("--csv", type=Path | None, default=None, metavar="FILE", help=csv_help)
    activitynet_help = "Write the segments to this file, in the form of ActivityNet's results."
    parser.add_argument("--activitynet", type=Path | None, default=None, metavar="FILE", help=activitynet_help)
    overlay_help = "Write the video with its classes drawn on it: a file (.mp4, .mkv, .mov), or a folder for several."
    parser.add_argument("--overlay", type=Path | None, default=None, help=overlay_help)
    return parser


if __name__ == "__main__":
    run_command(main, "launch/predict.py")
