"""From video files to what a trained network sees of them, and to its logits."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from launch.inference.long_video import WindowReader
from launch.inference.pack_files import file_number, pack_files
from launch.inference.windows import WindowOptions
from launch.training.checkpoint import CheckpointInfo, load_checkpoint, packing_settings
from launch.training.config import Config
from launch.training.evaluation import compute_scores
from launch.training.forward import compute_logits
from model import Network, fuse_batch_norm
from pipeline.config import DataConfig
from pipeline.decoders import fitting_decoders
from pipeline.loader import VideoLoader
from sharding.dataset import load_dataset
from sharding.datasets.flip_pairs import mirrored_pairs
from sharding.errors import UserError

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
        clips: clips of each video, or of each window of one, evenly shifted in time; their scores are averaged.
        crops: crops of each clip: 1, 3 or 10.

    Raises:
        UserError: no checkpoint, one that cannot be loaded, no such device, or crops that the network does not allow.
    """

    def __init__(
        self, checkpoint: Path | str, device: torch.device | str | None = None, clips: int = 1, crops: int = 1
    ):
        self.device = choose_device(device)
        net, self.info, config = load_checkpoint(checkpoint)
        self.config = replace(config, data=with_views(config.data, clips, crops, self.info.classes))
        self.net = fuse_batch_norm(net).to(self.device)

    def __call__(self, videos: Sequence[Path | str]) -> list[Prediction]:
        """Return the prediction for each file, in the order of `videos`.

        A file that cannot be decoded, or is not there, has no logits but an `error`.
        """
        paths = [Path(video) for video in videos]
        results = predict(self.net, self.info, self.config, paths, self.config.data.num_views > 1) if paths else []
        classes, several = self.info.classes, self.config.model.multi_label
        return [
            Prediction(path, classes, None, result, several)
            if isinstance(result, str)
            else Prediction(path, classes, result, multi_label=several)
            for path, result in zip(paths, results)
        ]

    def window_reader(self, options: WindowOptions) -> WindowReader:
        """Return what cuts long videos into windows, prepared for this network."""
        return WindowReader(self.info.packing, self.config.data, self.device, options, BATCH_SIZE)


def choose_device(name: torch.device | str | None) -> torch.device:
    """Return a device that is there; by default the GPU if there is one.

    Raises:
        UserError: torch knows no such device, or this machine has none.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UserError(f"--device {name}: use cpu, cuda or cuda:NUMBER") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: use cpu, cuda or cuda:NUMBER")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} GPU(s) that torch can use")
    return device


def with_views(data: DataConfig, clips: int, crops: int, classes: Sequence[str]) -> DataConfig:
    """Return the settings with so many views of each video.

    Raises:
        UserError: the network's training, or what its `classes` mean, does not allow them.
    """
    if clips < 1:
        raise UserError(f"--clips {clips}: use 1 or more")
    if crops not in (1, 3, 10):
        raise UserError(f"--crops {crops}: use 1, 3 or 10")
    if crops == 10 and not data.flip:
        raise UserError("--crops 10 mirrors clips, but the network was trained without that (data.flip); use 1 or 3")
    if crops == 10 and (pairs := mirrored_pairs(classes)):
        one, other = (classes[number] for number in pairs[0])
        raise UserError(f"--crops 10 mirrors clips, which makes {other!r} of {one!r}; use 1 or 3")
    return replace(data, test_clips=clips, test_crops=crops)


def predict(
    net: Network, info: CheckpointInfo, config: Config, videos: Sequence[Path], all_views: bool = False
) -> list[torch.Tensor | str]:
    """Return for each file its logits (num_classes,) float32, of one clip and the centre crop, or why it has none.

    With `all_views` those of config.data are seen, and there are the logits of the mean of their probabilities.
    """
    device = next(net.parameters()).device
    with open_loader(videos, info.packing, config.data, device, all_views) as (loader, failures):
        results: list[torch.Tensor | str] = [failures.get(place, "") for place in range(len(videos))]
        if loader is None:
            return results
        for batch in loader:
            if batch.num_views > 1:
                several = config.model.multi_label
                scores = compute_scores(net, batch, config.train.precision, multi_label=several)[""].cpu()
                logits = scores.logit() if several else scores.log()
            else:
                logits = compute_logits(net, batch.clips, config.train.precision).cpu()
            for sample_id, row in zip(batch.sample_ids.tolist(), logits):
                results[file_number(loader.dataset.key(sample_id))] = row
    return results


@contextlib.contextmanager
def open_loader(
    videos: Sequence[Path],
    packing: Mapping[str, Any],
    data: DataConfig,
    device: torch.device | str,
    all_views: bool = False,
) -> Iterator[tuple[VideoLoader | None, dict[int, str]]]:
    """Pack files into a temporary folder, with the settings of the training data, and open the loader of evaluation.

    Yields the loader, which gives one view of each video, or with `all_views` those of `data`, or None if all files
    failed; and why those failed that did, by their place in `videos`. The place of a sample is
    file_number(loader.dataset.key(sample_id)).
    """
    settings = packing_settings(packing)
    with tempfile.TemporaryDirectory(prefix="vpsn-") as folder:
        packed, failures = pack_files(videos, Path(folder), **settings)
        if len(failures) == len(videos):
            yield None, failures
            return
        dataset = load_dataset(packed)
        # For a few videos neither a worker process is worth its start, nor a measurement which node decodes faster.
        decoder = fitting_decoders(dataset, torch.device(device))[0]
        data = replace(data, decoder=decoder, worker_type="thread", min_frames=1)
        data = data if all_views else replace(data, test_clips=1, test_crops=1)
        loader = VideoLoader(dataset, data, training=False, micro_batch_size=BATCH_SIZE, device=device)
        try:
            yield loader, failures
        finally:
            loader.close()
