"""The classes of video files as rows for people and for programs: what `launch/predict.py` prints."""

from collections.abc import Sequence
from pathlib import Path

from launch.inference.predictor import Predictor
from launch.inference.window_output import long_row
from launch.inference.window_predictions import predict_windows
from launch.inference.window_progress import show_progress
from launch.inference.windows import WindowOptions
from sharding.errors import MediaError, UserError
from sharding.video.decode import probe

DEFAULT_TOP = 5
LONG_SECONDS = 15
"""From here on it is said how few frames of a video were seen."""


def check_any_is_video(videos: Sequence[Path]) -> None:
    """Raise UserError if not one of the files can be opened as a video."""
    errors = []
    for video in videos:
        try:
            probe(video)
            return
        except MediaError as error:
            errors.append(f"{video}: not a video: {error.message}")
    raise UserError(errors[0] + (f"; nor is any of the {len(errors)} files" if len(errors) > 1 else ""))


def predict_files(
    predictor: Predictor, videos: Sequence[Path], top: int | None, threshold: float | None = None
) -> list[dict]:
    """Return a row for each file: its `top` most probable classes, or the error why it has none.

    With a `threshold`, which only a network of several labels a video takes, all classes from that probability on, or
    of these the `top` most probable.

    Raises:
        UserError: a threshold for a network of one label a video.
    """
    if threshold is not None and not predictor.config.model.multi_label:
        raise UserError(f"--threshold {threshold:g}: the network gives each video one class; use --top")
    count = top or (DEFAULT_TOP if threshold is None else len(predictor.info.classes))
    rows = []
    for prediction in predictor(videos):
        row: dict = {"video": str(prediction.video)}
        if prediction.error is not None:
            row["error"] = prediction.error
        else:
            found = prediction.top(count, threshold or 0.0)
            row["predictions"] = [{"class": name, "probability": round(p, 6)} for name, p in found]
            data = predictor.config.data
            row["num_frames"] = data.frames_per_clip * data.test_clips
            row["seconds"] = round(probe(prediction.video).duration_seconds, 1)
        rows.append(row)
    return rows


def predict_long_files(predictor: Predictor, videos: Sequence[Path], top: int, options: WindowOptions) -> list[dict]:
    """Return a row for each file: its windows with their `top` most probable classes, its segments, what is lost, or
    the error why there are none.

    Raises:
        UserError: not one file has any.
    """
    with show_progress(len(videos)) as progress:
        predictions = predict_windows(predictor, videos, options, progress)
    return [
        {"video": str(video), "error": prediction}
        if isinstance(prediction, str)
        else long_row(prediction, predictor.info.classes, top)
        for video, prediction in zip(videos, predictions)
    ]


def describe_row(row: dict) -> str:
    """Return a row as lines of text."""
    lines = [row["video"]]
    if row.get("seconds", 0) >= LONG_SECONDS:
        lines[0] += f"  ({row['num_frames']} frames spread over {row['seconds']:.0f} s; see --window to look closer)"
    lines += [f"  {prediction['probability']:6.1%}  {prediction['class']}" for prediction in row.get("predictions", ())]
    if row.get("predictions") == []:
        lines.append("      none: no class reaches the threshold")
    if "error" in row:
        lines.append(f"      failed: {row['error']}")
    if "overlay" in row:
        lines.append(f"      drawn: {row['overlay']}")
    return "\n".join(lines)
