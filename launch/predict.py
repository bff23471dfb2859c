"""The classes of video files.

    python launch/predict.py --checkpoint runs/k400 clip.mp4 another.webm
    python launch/predict.py --checkpoint runs/k400 --json clips/ 'more/**/*.mp4'
    python launch/predict.py --checkpoint runs/charades --threshold 0.5 clip.mp4   # where videos have several labels
    python launch/predict.py --checkpoint runs/k400 --overlay out.mp4 clip.mp4      # the classes, drawn on the video

The files go through exactly what the training data went through: they are packed, with the checkpoint's own settings,
into a temporary folder, and read from there by the loader that evaluation uses.
"""

import json
from pathlib import Path

from sharding.cli import CommandLine, run_command
from sharding.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.top is not None and options.top < 1:
        raise UserError(f"--top {options.top}: use 1 or more")
    if options.threshold is not None and not 0 < options.threshold < 1:
        raise UserError(f"--threshold {options.threshold:g}: use more than 0 and less than 1")
    # torch, once the options are known to be right
    from launch.inference.pack_files import collect_videos
    from launch.inference.predictions import check_any_is_video, describe_row, predict_files
    from launch.training.checkpoint import find_checkpoint
    from launch.visualization.overlay import draw_overlays, plan_overlays
    from sharding.files import check_writable

    find_checkpoint(options.checkpoint)
    videos = collect_videos(options.videos)
    check_any_is_video(videos)
    targets = plan_overlays(videos, options.overlay) if options.overlay else []
    for target in targets:
        check_writable(target)
    rows = predict_files(options.checkpoint, videos, options.top, options.threshold)
    draw_overlays(rows, videos, targets)
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print("\n".join(describe_row(row) for row in rows))
    return 1 if any("error" in row for row in rows) else 0


def _parser() -> CommandLine:
    parser = CommandLine(prog="launch/predict.py", description="The classes of video files.")
    videos_help = "Video files, folders to be searched for videos, or quoted patterns such as 'clips/**/*.mp4'."
    parser.add_argument("videos", type=str, nargs="+", metavar="VIDEO", help=videos_help)
    parser.add_argument("--checkpoint", type=Path, required=True, help="Run folder (its best) or checkpoint.")
    top_help = "How many classes to show; default: 5, or all that reach --threshold."
    parser.add_argument("--top", type=int | None, default=None, help=top_help)
    threshold_help = "Show the classes from this probability on; where videos have several labels."
    parser.add_argument("--threshold", type=float | None, default=None, help=threshold_help)
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    overlay_help = "Write the video with its classes drawn on it: a file (.mp4, .mkv, .mov), or a folder for several."
    parser.add_argument("--overlay", type=Path | None, default=None, help=overlay_help)
    return parser


if __name__ == "__main__":
    run_command(main, "launch/predict.py")
