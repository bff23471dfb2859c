"""A video of any length as clips for a network, window by window: each frame is decoded and prepared once at most."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from launch.inference.windows import Window, WindowOptions, plan_windows
from launch.training.checkpoint import packing_settings
from pipeline.config import DataConfig
from pipeline.cores import cores_per_rank
from pipeline.frame_crops import CroppedFrame, FrameCrops, cut_frame
from sharding.packing.stored_pixels import StoredPixels
from sharding.video.frame_reader import FrameReader
from sharding.video.timeline import Loss, Timeline, read_timeline


@dataclass(frozen=True)
class WindowBatch:
    """Some windows of a video, in order."""

    windows: list[Window]
    """Those that are seen, N."""
    clips: torch.Tensor
    """(N * V, T, 3, H, W) float32, normalised, the V views of a window together."""
    lost: list[Window]
    """Those of which frames are lost, up to the last of `windows`."""


class WindowReader:
    """Cuts videos into windows, prepared as the training data of a run were.

        reader = WindowReader(info.packing, config.data, torch.device("cpu"), WindowOptions(2.0, 1.0))
        video = reader.open(path)
        for batch in reader.read(video):
            net(batch.clips)
        video.losses

    Args:
        packing: settings of the training data.
        data: of the run, with the test_clips and test_crops wanted.
        options: how they are cut; None takes each video as one window.
        batch_size: windows in a batch.
    """

    def __init__(
        self,
        packing: Mapping[str, Any],
        data: DataConfig,
        device: torch.device,
        options: WindowOptions | None,
        batch_size: int = 8,
    ):
        self.settings = packing_settings(packing)
        self.data, self.options, self.batch_size = data, options, batch_size
        self._threads = cores_per_rank()
        self._crops = FrameCrops(data, device, self._threads)
        self._max_frames = self.settings["max_frames"] if self.settings["profile"] in ("h264", "jpeg") else None

    def open(self, path: Path) -> "OpenedVideo":
        """Find the frames of a file and plan its windows.

        Raises:
            MediaError: it is no video.
            UserError: it is shorter than a window.
        """
        timeline = read_timeline(path)
        windows = plan_windows(timeline.times, timeline.duration, self.options, self.data, self._max_frames)
        return OpenedVideo(path, timeline, windows)

    def read(self, video: "OpenedVideo") -> Iterator[WindowBatch]:
        """Yield the windows of a video in order. Damage is listed in `video.losses`.

        Raises:
            MediaError: the file is gone, or a frame is to be shown at an angle that is not right.
        """
        reader = FrameReader(video.path, video.timeline, video.wanted, lambda: self._make(video), self._threads)
        video.reader = reader
        with closing(iter(reader)) as frames, closing(self._crops(frames)) as crops:
            yield from self._batches(video, crops)

    def _make(self, video: "OpenedVideo"):
        pixels = StoredPixels(self.settings["profile"], self.settings["short_side"], video.timeline.info)

        def convert(frame) -> CroppedFrame:
            return cut_frame(pixels(frame), self.data)

        return convert

    def _batches(self, video: "OpenedVideo", crops: Iterator[tuple[int, torch.Tensor | None]]) -> Iterator[WindowBatch]:
        """Keep the crops of the frames that are still needed, and put windows together as they become complete."""
        held: dict[int, torch.Tensor | None] = {}
        last, seen, lost = -1, [], []
        clips: list[torch.Tensor] = []
        for window in video.windows:
            while last < window.frames.max():
                last, crop = next(crops)
                held[last] = crop
            first = window.frames.min()
            held = {number: crop for number, crop in held.items() if number >= first}
            frames = [held[number] for number in window.frames.tolist()]
            if video.is_in_a_hole(window) or any(frame is None for frame in frames):
                lost.append(window)
            else:
                seen.append(window)
                clips.append(self._views([frame for frame in frames if frame is not None]))
            if len(seen) == self.batch_size:
                yield WindowBatch(seen, torch.cat(clips), lost)
                seen, lost, clips = [], [], []
        if seen or lost:
            yield WindowBatch(seen, torch.cat(clips) if clips else torch.empty(0), lost)

    def _views(self, frames: list[torch.Tensor]) -> torch.Tensor:
        """Return the views (V, T, 3, H, W) of a window: for each crop its clips."""
        pixels = torch.stack(frames, 1)  # (C, K * T, H, W, 3)
        return pixels.view(-1, self.data.frames_per_clip, *pixels.shape[-3:]).permute(0, 1, 4, 2, 3)


class OpenedVideo:
    """A file whose windows are planned."""

    def __init__(self, path: Path, timeline: Timeline, windows: list[Window]):
        self.path, self.timeline, self.windows = path, timeline, windows
        self.wanted = np.unique(np.concatenate([window.frames for window in windows]))
        """The frames that a window wants, sorted."""
        self.reader: FrameReader | None = None

    @property
    def duration(self) -> float:
        """In seconds."""
        return self.timeline.duration

    @property
    def losses(self) -> list[Loss]:
        """The parts that could not be seen, as far as it has been read, sorted."""
        found = [*self.timeline.losses, *(self.reader.losses if self.reader else ())]
        return sorted(found, key=lambda loss: (loss.start, loss.end))

    def is_in_a_hole(self, window: Window) -> bool:
        """Return whether the container lacks a part of a window."""
        return any(loss.start < window.end and loss.end > window.start for loss in self._holes)

    @property
    def _holes(self) -> list[Loss]:
        return [loss for loss in self.timeline.losses if loss.end > loss.start]
