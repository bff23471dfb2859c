"""From video files to what a trained network sees of them, and to its logits."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from launch.inference.pack_files import file_number, pack_files
from launch.training.checkpoint import CheckpointInfo
from launch.training.config import Config
from launch.training.forward import compute_logits
from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from sharding.dataset import load_dataset

BATCH_SIZE = 8


def predict(net: nn.Module, info: CheckpointInfo, config: Config, videos: Sequence[Path]) -> list[torch.Tensor | str]:
    """For each file its logits (num_classes,) float32, of one clip and the centre crop, or in words why it has none."""
    device = next(net.parameters()).device
    with open_loader(videos, info.packing, config.data, device) as (loader, failures):
        results: list[torch.Tensor | str] = [failures.get(place, "") for place in range(len(videos))]
        for batch in loader or ():
            logits = compute_logits(net, batch.clips, config.train.precision).cpu()
            for sample_id, row in zip(batch.sample_ids.tolist(), logits):
                results[file_number(loader.dataset.key(sample_id))] = row
    return results


@contextlib.contextmanager
def open_loader(
    videos: Sequence[Path], packing: Mapping[str, Any], data: DataConfig, device: torch.device | str
) -> Iterator[tuple[VideoLoader | None, dict[int, str]]]:
    """Packs files into a temporary folder, with the settings of the training data, and opens the loader of evaluation.

    Yields the loader, which gives one view of each video, or None if all files failed, and why those failed that did,
    by their place in `videos`. The place of a sample is file_number(loader.dataset.key(sample_id)).
    """
    settings = {name: packing[name] for name in ("profile", "max_frames", "short_side", "quality")}
    with tempfile.TemporaryDirectory(prefix="vpsn-") as folder:
        packed, failures = pack_files(videos, Path(folder), **settings)
        if len(failures) == len(videos):
            yield None, failures
            return
        data = replace(data, decoder="auto", min_frames=1, test_clips=1, test_crops=1)
        loader = VideoLoader(load_dataset(packed), data, training=False, micro_batch_size=BATCH_SIZE, device=device)
        try:
            yield loader, failures
        finally:
            loader.close()
