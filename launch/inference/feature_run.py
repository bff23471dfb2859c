"""Features of packed samples or video files, over ranks, resumed where they stopped: what `launch/features.py` does."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from launch.inference.feature_files import RESERVED, SETTINGS, FeatureFolder, VideoFeatures
from launch.inference.feature_names import name_videos
from launch.inference.feature_progress import show_count
from launch.inference.features import FeatureExtractor
from launch.inference.long_video import OpenedVideo, WindowReader
from launch.inference.predictor import choose_device, with_views
from launch.inference.windows import Window, WindowOptions
from launch.training.checkpoint import find_checkpoint, load_checkpoint
from launch.training.config import Config
from launch.training.distributed import Ranks, errors_on_all_ranks, gather_over_ranks
from model import fuse_batch_norm
from pipeline.dataset import open_dataset
from pipeline.loader import VideoLoader
from sharding.dataset import PackedDataset
from sharding.errors import MediaError, UserError
from sharding.files import check_writable, file_sha256


@dataclass(frozen=True)
class FeatureOptions:
    """What features are wanted, of what."""

    checkpoint: Path
    out: Path
    videos: Sequence[str]
    """Files, folders and patterns; none if `data` is given."""
    data: str | None
    """Folder or URL of a packed split."""
    stage: str
    windows: WindowOptions | None
    """How files are cut; None: each is seen as a whole."""
    clips: int
    crops: int
    batch_size: int


def extract(options: FeatureOptions) -> int:
    """Write the features that are not there yet, over all ranks; print what was done. Return the exit code.

    Raises:
        UserError: impossible options, or nothing could be done.
    """
    run = _FeatureRun(options)
    with _joined_ranks() as ranks:
        return run.run(ranks)


@contextmanager
def _joined_ranks() -> Iterator[Ranks]:
    """Join the other ranks; alone nothing of DeepSpeed is needed."""
    if "RANK" not in os.environ:
        yield Ranks(0, 1, choose_device(None))
        return
    from launch.training.engine import joined_ranks

    with joined_ranks() as ranks:
        yield ranks


class _FeatureRun:
    """All that is known before the ranks meet, and the work."""

    def __init__(self, options: FeatureOptions):
        self.options = options
        checkpoint = find_checkpoint(options.checkpoint)
        self.net, self.info, config = load_checkpoint(checkpoint)
        self.config = replace(config, data=with_views(config.data, options.clips, options.crops, self.info.classes))
        self.data = self.config.data
        self.dataset, self.videos = None, {}
        if options.data:
            self.dataset = open_dataset(options.data, self.data.cache_dir, self.data.cache_bytes)
        else:
            self.videos = name_videos(options.videos)
        self.folder = FeatureFolder(options.out, _settings(options, checkpoint, self.config, self.dataset))

    def run(self, ranks: Ranks) -> int:
        with errors_on_all_ranks(ranks):
            if ranks.is_main_process:
                check_writable(self.options.out / SETTINGS)
                self.folder.begin()
        names = [self.dataset.key(n) for n in self.dataset.kept.tolist()] if self.dataset else list(self.videos)
        if not names:
            raise UserError(f"{self.options.data}: none of its samples is left: all are quarantined")
        if RESERVED in names:
            raise UserError(f"{RESERVED}: the name {RESERVED} is taken by what describes the folder; rename it")
        # As the first rank finds it, before any of them begins.
        left = [name for name in names if not self.folder.is_done(name)] if ranks.is_main_process else []
        left = gather_over_ranks(left)[0]
        num_views = self.data.num_views
        num_clips = max(1, self.options.batch_size // num_views) * num_views
        net = fuse_batch_norm(self.net).to(ranks.device)
        extractor = FeatureExtractor(net, self.options.stage, self.config.train.precision, num_clips)
        failures: dict[str, str] = {}
        if self.dataset:
            self._extract_packed(self.dataset, left, extractor, ranks)
        else:
            failures = self._extract_files(left[ranks.rank :: ranks.world_size], extractor, ranks)
        failures = {name: why for found in gather_over_ranks(failures) for name, why in found.items()}
        return _finish(names, left, failures, self.folder) if ranks.is_main_process else int(bool(failures))

    def _extract_packed(
        self, dataset: PackedDataset, left: Sequence[str], extractor: FeatureExtractor, ranks: Ranks
    ) -> None:
        """Write this rank's samples of those that are left: a row for each clip, the mean over its crops."""
        wanted, fps = set(left), dataset.column("fps")
        sample_ids = np.array([n for n in dataset.kept.tolist() if dataset.key(n) in wanted], np.int64)
        if not len(sample_ids):
            return
        loader = VideoLoader(
            dataset,
            self.data,
            training=False,
            micro_batch_size=self.options.batch_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
            device=ranks.device,
            sample_ids=sample_ids,
            gather=gather_over_ranks,
        )
        with closing(loader), show_count(len(sample_ids), ranks) as count:
            for batch in loader:
                values = extractor(batch.clips)
                values = values.view(len(batch.sample_ids), self.data.test_crops, self.data.test_clips, -1).mean(1)
                for sample_id, rows in zip(batch.sample_ids.tolist(), values.cpu().numpy()):
                    seconds = float(dataset.num_frames[sample_id] / fps[sample_id])
                    described = {"fps": float(fps[sample_id]), "seconds": seconds, "stride_seconds": None, "lost": []}
                    begins, ends = [0.0] * len(rows), [seconds] * len(rows)
                    self.folder.write(VideoFeatures(dataset.key(sample_id), rows, begins, ends, described))
                count(len(batch.sample_ids))

    def _extract_files(self, names: Sequence[str], extractor: FeatureExtractor, ranks: Ranks) -> dict[str, str]:
        """Write the features of files, a row for each window; return why those failed that did, and what others
        lack."""
        num_windows = extractor.batch_size // self.data.num_views
        reader = WindowReader(self.info.packing, self.data, ranks.device, self.options.windows, num_windows)
        failures: dict[str, str] = {}
        with show_count(len(names), ranks, "videos") as count:
            for name in names:
                try:
                    video = reader.open(self.videos[name])
                    self.folder.write(_features_of(name, video, reader, extractor))
                    if video.losses:
                        failures[name] = "; ".join(map(str, video.losses))
                except (MediaError, UserError) as error:
                    failures[name] = str(error)
                count(1)
        return failures


def _settings(options: FeatureOptions, checkpoint: Path, config: Config, dataset: PackedDataset | None) -> dict:
    data = config.data
    return {
        "checkpoint": str(checkpoint.resolve()),
        "checkpoint_sha256": file_sha256(checkpoint / "model.safetensors"),
        "stage": options.stage,
        "window_seconds": options.windows.window if options.windows else None,
        "stride_seconds": options.windows.stride if options.windows else None,
        "clips": data.test_clips,
        "crops": data.test_crops,
        "frames_per_clip": data.frames_per_clip,
        "short_side": data.short_side,
        "crop_size": data.crop_size,
        "precision": config.train.precision,
        "data_fingerprint": dataset.fingerprint if dataset else None,
    }


def _features_of(name: str, video: OpenedVideo, reader: WindowReader, extractor: FeatureExtractor) -> VideoFeatures:
    found: dict[float, np.ndarray] = {}
    for batch in reader.read(video):
        if batch.windows:
            views = extractor(batch.clips)
            values = views.view(len(batch.windows), -1, views.shape[1]).mean(1).cpu().numpy()
            found |= {window.start: row for window, row in zip(batch.windows, values)}
    if not found:
        raise MediaError("decode", "; ".join(map(str, video.losses)) or "not one window could be seen")
    missing = np.full_like(next(iter(found.values())), np.nan)
    stride = reader.options.stride if reader.options else None
    fps = round(1 / video.timeline.frame_seconds, 6)
    described = {
        "source": str(video.path),
        "fps": fps,
        "seconds": round(video.duration, 6),
        "stride_seconds": stride,
        "stride_frames": round(stride * fps, 6) if stride else None,
        "window_seconds": reader.options.window if reader.options else None,
        "lost": [{"start": loss.start, "end": loss.end, "reason": loss.reason} for loss in video.losses],
        "lost_rows": [row for row, window in enumerate(video.windows) if window.start not in found],
    }
    rows = np.stack([found.get(window.start, missing) for window in video.windows])
    return VideoFeatures(name, rows, *_bounds(video.windows), described)


def _bounds(windows: Iterable[Window]) -> tuple[list[float], list[float]]:
    return [window.start for window in windows], [window.end for window in windows]


def _finish(names: Sequence[str], left: Sequence[str], failures: Mapping[str, str], folder: FeatureFolder) -> int:
    """Write the table of all, print what was done, and return the exit code."""
    done = [name for name in names if folder.is_done(name)]
    if not done:
        name, why = next(iter(failures.items()))
        raise UserError(f"{name}: {why}" + (f"; nor could any of the {len(names)} be read" if len(names) > 1 else ""))
    for name, why in failures.items():
        print(f"{name}: {why if folder.is_done(name) else f'failed: {why}'}")
    table = folder.write_table(done)
    kept = len(names) - len(left)
    print(f"{len(done)} of {len(names)} videos ({kept} were there already); {table}")
    return int(bool(failures))
