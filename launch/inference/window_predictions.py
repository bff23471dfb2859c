"""The classes of long videos over time, window by window: what `launch/predict.py --window` gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from launch.inference.long_video import OpenedVideo, WindowReader
from launch.inference.predictor import Predictor
from launch.inference.segments import ScoredWindow, Segment, merge_windows
from launch.inference.windows import WindowOptions
from launch.training.evaluation import compute_scores
from pipeline.batch import VideoBatch
from sharding.errors import MediaError, UserError
from sharding.video.timeline import Loss


@dataclass(frozen=True)
class LongPrediction:
    """What the network says of one file over time."""

    video: Path
    duration: float
    """In seconds."""
    windows: tuple[ScoredWindow, ...]
    """Those that were seen, in order."""
    segments: tuple[Segment, ...]
    losses: tuple[Loss, ...]
    """Parts that are damaged or missing."""
    num_lost: int
    """Windows without a class, as frames of theirs are lost."""


Progress = Callable[[OpenedVideo, float], None]
"""Called with a video and the second up to which it has been seen."""


def predict_windows(
    predictor: Predictor, videos: Sequence[Path], options: WindowOptions, progress: Progress
) -> list[LongPrediction | str]:
    """Return the prediction for each file, or why it has none.

    Raises:
        UserError: not one file has any; with the reason of the first.
    """
    reader = predictor.window_reader(options)
    results: list[LongPrediction | str] = []
    for path in videos:
        try:
            results.append(_predict_video(predictor, reader, reader.open(path), progress))
        except (MediaError, UserError) as error:
            results.append(str(error))
    if all(isinstance(result, str) for result in results):
        raise UserError(f"{videos[0]}: {results[0]}")
    return results


def _predict_video(
    predictor: Predictor, reader: WindowReader, video: OpenedVideo, progress: Progress
) -> LongPrediction:
    scored, num_lost = [], 0
    for batch in reader.read(video):
        num_lost += len(batch.lost)
        if batch.windows:
            scores = _scores(predictor, batch.clips, len(batch.windows))
            scored += [ScoredWindow(window.start, window.end, row) for window, row in zip(batch.windows, scores)]
        progress(video, max(window.end for window in (*batch.windows, *batch.lost)))
    segments = merge_windows(scored, predictor.info.classes)
    return LongPrediction(video.path, video.duration, tuple(scored), tuple(segments), tuple(video.losses), num_lost)


def _scores(predictor: Predictor, clips: torch.Tensor, count: int) -> np.ndarray:
    """Return probabilities (count, num_classes), the mean over the views of each window."""
    labels = torch.zeros(count, dtype=torch.int64, device=clips.device)
    batch = VideoBatch(clips, labels, torch.arange(count), num_views=len(clips) // count)
    precision, several = predictor.config.train.precision, predictor.config.model.multi_label
    return compute_scores(predictor.net, batch, precision, multi_label=several)[""].cpu().numpy()
