"""How fast packed shards are read, decoded and cropped: the real loader, and its parts one by one."""

import time
from dataclasses import dataclass

from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from sharding.manifest import PackedDataset


@dataclass(frozen=True)
class LoaderSpeed:
    """Of one dataset under one configuration."""

    clips_per_second: float
    megabytes_per_second: float
    """Of media read from the shards; under jpeg estimated by the share of frames that is read."""
    clips: int
    seconds: float


def measure_loader(
    dataset: PackedDataset, config: DataConfig, batch_size: int, seconds: float, device: str = "cpu"
) -> LoaderSpeed:
    """Runs the training loader for some `seconds`, after a first batch that is not counted."""
    loader = VideoLoader(
        dataset, config, training=True, micro_batch_size=min(batch_size, len(dataset)), device=device
    )
    clips = read = 0
    began: float | None = None
    while began is None or time.perf_counter() - began < seconds:
        for batch in loader:
            if began is None:
                began = time.perf_counter()
                continue
            ids = batch.sample_ids.cpu().numpy()
            clips += len(ids)
            shares = config.num_segments / dataset.num_frames[ids] if loader.decoder == "jpeg" else 1.0
            read += float((dataset.media_bytes[ids] * shares).sum())
            if time.perf_counter() - began >= seconds:
                break
    elapsed = time.perf_counter() - began
    loader.close()
    return LoaderSpeed(clips / elapsed, read / elapsed / 1e6, clips, elapsed)
