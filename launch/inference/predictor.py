"""From video files to what a trained network sees of them, and to its logits."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from launch.inference.pack_files import file_number, pack_files
from launch.training.checkpoint import CheckpointInfo, load_checkpoint, packing_settings
from launch.training.config import Config
from launch.training.forward import compute_logits
from model import fuse_batch_norm
from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from sharding.dataset import load_dataset

BATCH_SIZE = 8


@dataclass(frozen=True)
class Prediction:
    """What the network says of one video file."""

    video: Path
    classes: tuple[str, ...]
    """Class names; the place is the class id."""
    logits: torch.Tensor | None
    """(num_classes,) float32 on the CPU; None if the file could not be decoded."""
    error: str | None = None
    """Why there are no logits."""
    multi_label: bool = False
    """Whether the video may be of several classes: probabilities are then sigmoids, else a softmax."""

    @property
    def probabilities(self) -> torch.Tensor | None:
        """Return (num_classes,) float32, which with one label a video sum to 1; None without logits."""
        if self.logits is None:
            return None
        return self.logits.sigmoid() if self.multi_label else self.logits.softmax(0)

    def top(self, count: int = 5, threshold: float = 0.0) -> list[tuple[str, float]]:
        """Return the `count` likeliest classes as (name, probability), the likeliest first, of those with a probability
        of `threshold` or more; none without logits."""
        if (probabilities := self.probabilities) is None:
            return []
        values, indices = probabilities.topk(min(count, len(self.classes)))
        found = zip(indices.tolist(), values.tolist())
        return [(self.classes[index], value) for index, value in found if value >= threshold]


class Predictor:
    """The network of a checkpoint, loaded once, for any number of calls with video files.

        predictor = Predictor("runs/k400")
        [prediction] = predictor(["arm_wrestling.mp4"])
        prediction.top(1)    # [('arm wrestling', 0.999)]

    Args:
        checkpoint: a run folder (its best checkpoint, else its last) or a checkpoint folder.
        device: where the network computes; by default the GPU if there is one.

    Raises:
        UserError: no checkpoint, or one that cannot be loaded.
    """

    def __init__(self, checkpoint: Path | str, device: torch.device | str | None = None):
        net, self.info, self.config = load_checkpoint(checkpoint)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.net = fuse_batch_norm(net).to(self.device)

    def __call__(self, videos: Sequence[Path | str]) -> list[Prediction]:
        """Return the prediction for each file, of one clip and the centre crop, in the order of `videos`.

        A file that cannot be decoded, or is not there, has no logits but an `error`.
        """
        paths = [Path(video) for video in videos]
        results = predict(self.net, self.info, self.config, paths) if paths else []
        classes, several = self.info.classes, self.config.model.multi_label
        return [
            Prediction(path, classes, None, result, several)
            if isinstance(result, str)
            else Prediction(path, classes, result, multi_label=several)
            for path, result in zip(paths, results)
        ]


def predict(net: nn.Module, info: CheckpointInfo, config: Config, videos: Sequence[Path]) -> list[torch.Tensor | str]:
    """Return for each file its logits (num_classes,) float32, of one clip and the centre crop, or why it has none."""
    device = next(net.parameters()).device
    with open_loader(videos, info.packing, config.data, device) as (loader, failures):
        results: list[torch.Tensor | str] = [failures.get(place, "") for place in range(len(videos))]
        if loader is None:
            return results
        for batch in loader:
            logits = compute_logits(net, batch.clips, config.train.precision).cpu()
            for sample_id, row in zip(batch.sample_ids.tolist(), logits):
                results[file_number(loader.dataset.key(sample_id))] = row
    return results


@contextlib.contextmanager
def open_loader(
    videos: Sequence[Path], packing: Mapping[str, Any], data: DataConfig, device: torch.device | str
) -> Iterator[tuple[VideoLoader | None, dict[int, str]]]:
    """Pack files into a temporary folder, with the settings of the training data, and open the loader of evaluation.

    Yields the loader, which gives one view of each video, or None if all files failed, and why those failed that did,
    by their place in `videos`. The place of a sample is file_number(loader.dataset.key(sample_id)).
    """
    settings = packing_settings(packing)
    with tempfile.TemporaryDirectory(prefix="vpsn-") as folder:
        packed, failures = pack_files(videos, Path(folder), **settings)
        if len(failures) == len(videos):
            yield None, failures
            return
        # For a few videos no worker process is worth its start.
        data = replace(data, decoder="auto", worker_type="thread", min_frames=1, test_clips=1, test_crops=1)
        loader = VideoLoader(load_dataset(packed), data, training=False, micro_batch_size=BATCH_SIZE, device=device)
        try:
            yield loader, failures
        finally:
            loader.close()
