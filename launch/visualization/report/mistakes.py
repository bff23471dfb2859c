"""The videos of which an evaluation was most certain and wrong, each with a few of its frames from the shards."""

import base64
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from launch.inference.scores import Scores
from pipeline.reading import read_media, read_packets
from pipeline.sampling import middle_frames
from sharding.dataset import PackedDataset
from sharding.errors import MediaError
from sharding.video.decode import decode_frames
from sharding.video.frame_folder import open_jpeg

FRAMES_SHOWN = 6
_HEIGHT = 96
_MOST_WIDTH = 4 * _HEIGHT  # of a panorama
_MOST_OF_A_PAIR = 2


@dataclass(frozen=True)
class Mistake:
    """A sample that was taken for a class that is not its own."""

    key: str
    labels: tuple[int, ...]
    """The true class, or where samples have several labels any number of them."""
    prediction: int
    probability: float
    """Of the predicted class."""
    label_probabilities: tuple[float, ...]
    """Of the true classes."""


def worst_mistakes(scores: Scores, count: int) -> list[Mistake]:
    """Return up to `count` of the wrong samples, the highest probability of the wrong class first.

    With one label a sample, those whose most probable class is wrong; with several, each by the most probable of the
    classes that it is not of. Of the same labels taken for the same class there are at most two, so that a single hard
    pair does not fill the list.
    """
    values = np.where(scores.labels, -1, scores.scores) if scores.is_multilabel else scores.scores
    predictions = values.argmax(1)
    wrong = np.flatnonzero(values.max(1) >= 0 if scores.is_multilabel else predictions != scores.labels)
    certainty = values[wrong, predictions[wrong]]
    taken: Counter[tuple[tuple[int, ...], int]] = Counter()
    mistakes: list[Mistake] = []
    for row in wrong[np.argsort(-certainty, kind="stable")]:
        if len(mistakes) == count:
            break
        found = np.flatnonzero(scores.labels[row]) if scores.is_multilabel else scores.labels[row : row + 1]
        labels, prediction = tuple(found.tolist()), int(predictions[row])
        taken[labels, prediction] += 1
        if taken[labels, prediction] <= _MOST_OF_A_PAIR:
            true = tuple(float(scores.scores[row, label]) for label in labels)
            mistakes.append(Mistake(scores.keys[row], labels, prediction, float(values[row, prediction]), true))
    return mistakes


def frame_pictures(dataset: PackedDataset, sample_id: int) -> list[str]:
    """Return small JPEGs, as data: URLs, of the middles of equal parts of a stored video.

    Raises:
        MediaError: it does not decode.
        OSError: its shard cannot be read.
    """
    frames = np.unique(middle_frames(int(dataset.num_frames[sample_id]), FRAMES_SHOWN))
    if dataset.index_bytes[sample_id]:  # the jpeg profile
        pictures = []
        for number, data in read_packets(dataset, sample_id, frames):
            with open_jpeg(io.BytesIO(data), f"frame {number}") as image:
                pictures.append(image.convert("RGB"))
    else:
        pictures = [Image.fromarray(frame) for frame in decode_frames(read_media(dataset, sample_id), frames)]
    return [_as_url(picture) for picture in pictures]


def find_samples(dataset: PackedDataset, mistakes: list[Mistake]) -> dict[str, int]:
    """Return the sample ids of the mistakes' keys that are in the dataset."""
    wanted = {mistake.key for mistake in mistakes}
    return {key: number for number, key in enumerate(dataset.keys) if key in wanted}


def show_mistake(dataset: PackedDataset, sample_id: int | None) -> tuple[list[str], str]:
    """Return the pictures of a sample, and where there are none why."""
    if sample_id is None:
        return [], "not in the split"
    try:
        return frame_pictures(dataset, sample_id), ""
    except MediaError as error:
        return [], error.message
    except OSError as error:
        return [], error.strerror or str(error)


def _as_url(picture: Image.Image) -> str:
    width = min(_MOST_WIDTH, max(1, round(picture.width * _HEIGHT / picture.height)))
    file = io.BytesIO()
    picture.resize((width, _HEIGHT), Image.Resampling.BOX).save(file, "JPEG", quality=72, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def scores_next_to(evaluation: Path) -> Path:
    """Return the score file that launch/evaluate.py writes with an evaluation.json."""
    return evaluation.with_name("scores.parquet")
