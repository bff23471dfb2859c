"""The classes of video files.

    python launch/predict.py --checkpoint runs/k400 clip.mp4 another.webm
    python launch/predict.py --checkpoint runs/k400 --json clips/ 'more/**/*.mp4'
    python launch/predict.py --checkpoint runs/k400 --overlay out.mp4 clip.mp4      # the classes, drawn on the video

The files go through exactly what the training data went through: they are packed, with the checkpoint's own settings,
into a temporary folder, and read from there by the loader that evaluation uses.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from launch.inference.pack_files import collect_videos
from launch.inference.predictor import Prediction, Predictor
from launch.training.checkpoint import find_checkpoint
from launch.visualization.overlay import SUFFIXES, overlay_predictions
from sharding.cli import CommandLine, run_command
from sharding.errors import MediaError, UserError, check_minimum
from sharding.files import check_writable
from sharding.video.decode import probe


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    check_minimum(options, 1, "top", prefix="--")
    find_checkpoint(options.checkpoint)
    videos = collect_videos(options.videos)
    _check_any_is_video(videos)
    targets = plan_overlays(videos, options.overlay) if options.overlay else []
    for target in targets:
        check_writable(target)
    rows = [_row(prediction, options.top) for prediction in Predictor(options.checkpoint)(videos)]
    for row, video, target in zip(rows, videos, targets):
        _overlay(row, video, target)
    print(json.dumps(rows, indent=1) if options.json else "\n".join(map(_describe, rows)))
    return 1 if any("error" in row for row in rows) else 0


def plan_overlays(videos: Sequence[Path], overlay: Path) -> list[Path]:
    """The files to write for `videos`: `overlay` itself for one video, files named after them in the folder for more.

    Two videos of one name become name.mp4 and name-2.mp4.

    Raises:
        UserError: a file for more than one video, or for a video that would be overwritten.
    """
    if overlay.suffix.lower() in SUFFIXES and not overlay.is_dir():
        if len(videos) > 1:
            raise UserError(f"--overlay {overlay}: one file cannot hold {len(videos)} videos; give a folder")
        targets = [overlay]
    elif overlay.suffix and not overlay.is_dir():
        raise UserError(f"--overlay {overlay}: use a name that ends in {', '.join(SUFFIXES)}, or a folder")
    else:
        taken: dict[str, int] = {}
        targets = []
        for video in videos:
            taken[video.stem] = number = taken.get(video.stem, 0) + 1
            targets.append(overlay / (f"{video.stem}.mp4" if number == 1 else f"{video.stem}-{number}.mp4"))
    inputs = {video.resolve() for video in videos}
    for target in targets:
        if target.resolve() in inputs:
            raise UserError(f"--overlay {overlay}: would overwrite {target}; give another name or folder")
    return targets


def _check_any_is_video(videos: Sequence[Path]) -> None:
    """Raises UserError if not one of the files can be opened as a video."""
    errors = []
    for video in videos:
        try:
            probe(video)
            return
        except MediaError as error:
            errors.append(f"{video}: not a video: {error.message}")
    raise UserError(errors[0] + (f"; nor is any of the {len(errors)} files" if len(errors) > 1 else ""))


def _row(prediction: Prediction, top: int) -> dict:
    if prediction.error is not None:
        return {"video": str(prediction.video), "error": prediction.error}
    predictions = [{"class": name, "probability": round(value, 6)} for name, value in prediction.top(top)]
    return {"video": str(prediction.video), "predictions": predictions}


def _overlay(row: dict, video: Path, target: Path) -> None:
    """Draws the predictions of `row` on the video, and adds to `row` where."""
    if "error" in row:
        return
    try:
        overlay_predictions(video, target, [(p["class"], p["probability"]) for p in row["predictions"]])
        row["overlay"] = str(target)
    except MediaError as error:
        row["error"] = f"{target} was not written: {error}"


def _describe(row: dict) -> str:
    lines = [row["video"]]
    lines += [f"  {prediction['probability']:6.1%}  {prediction['class']}" for prediction in row.get("predictions", ())]
    if "error" in row:
        lines.append(f"      failed: {row['error']}")
    if "overlay" in row:
        lines.append(f"      drawn: {row['overlay']}")
    return "\n".join(lines)


def _parser() -> CommandLine:
    parser = CommandLine(prog="launch/predict.py", description="The classes of video files.")
    videos_help = "Video files, folders to be searched for videos, or quoted patterns such as 'clips/**/*.mp4'."
    parser.add_argument("videos", type=str, nargs="+", metavar="VIDEO", help=videos_help)
    parser.add_argument("--checkpoint", type=Path, required=True, help="Run folder (its best) or checkpoint.")
    parser.add_argument("--top", type=int, default=5, help="How many classes to show.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    overlay_help = "Write the video with its classes drawn on it: a file (.mp4, .mkv, .mov), or a folder for several."
    parser.add_argument("--overlay", type=Path | None, default=None, help=overlay_help)
    return parser


if __name__ == "__main__":
    run_command(main, "launch/predict.py")
