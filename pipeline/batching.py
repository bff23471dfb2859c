"""From plans to what the graph is fed, and from what it returns to clips.

media = feed.read(plan)              # in the reading threads: bytes or frames
inputs = feed.inputs(plans, media)   # to the graph
clips = feed.join(crops, plans)      # from the graph
"""

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.config import DataConfig
from pipeline.crops import crop_window, is_scaled
from pipeline.dali_graph import Inputs, input_types
from pipeline.plan import ClipPlan
from pipeline.reading import SampleError, read_jpegs, read_media
from sharding.dataset import PackedDataset
from sharding.errors import MediaError
from sharding.video.decode import decode_frames


class Feed:
    """How the clips of a dataset go into and come out of the graph of one decode node.

    Args:
        num_crops: crops of each sample.
        changes_color: whether the plans' colours are to be applied.
    """

    def __init__(
        self, dataset: PackedDataset, config: DataConfig, decoder: str, num_crops: int = 1, changes_color: bool = False
    ):
        self.dataset, self.config, self.decoder = dataset, config, decoder
        self.num_crops, self.changes_color = num_crops, changes_color

    def read(self, plan: ClipPlan) -> np.ndarray | list[np.ndarray]:
        """The bytes of a video for NVDEC, of each distinct frame for the JPEG decoder; with pyav the frames' windows.

        Raises:
            SampleError: the sample cannot be read, or with pyav not be decoded.
        """
        if self.decoder == "jpeg":
            return read_jpegs(self.dataset, plan.sample_id, np.unique(plan.frames))
        data = read_media(self.dataset, plan.sample_id)
        if self.decoder == "nvdec":
            return np.frombuffer(data, np.uint8)
        return self.decode(plan, data)

    def decode(self, plan: ClipPlan, data: bytes) -> np.ndarray:
        """The window (F, H, W, 3) of each planned frame, decoded by PyAV. Raises SampleError."""
        try:
            frames = decode_frames(data, plan.frames, self._window(plan))
        except MediaError as error:
            raise SampleError(self.dataset, plan.sample_id, error) from error
        if frames.shape[1:3] != self.window_size(plan):
            raise SampleError(self.dataset, plan.sample_id, "its frames are smaller than its table says")
        return frames

    def window_size(self, plan: ClipPlan) -> tuple[int, int]:
        """Height and width of what is decoded."""
        top, left, bottom, right = self._window(plan).tolist()
        return bottom - top, right - left

    def inputs(self, plans: Sequence[ClipPlan], media: Sequence) -> Inputs:
        """What the graph is fed for a batch: an item for each clip, or under jpeg for each of its distinct frames."""
        values = [self._clip_inputs(plan) for plan in plans]
        names = [name for name in input_types(self.decoder, self.num_crops, self.changes_color) if name != "media"]
        if self.decoder == "jpeg":
            counts = [len(frames) for frames in media]
            inputs: Inputs = {name: np.repeat([clip[name] for clip in values], counts, axis=0) for name in names}
            inputs["media"] = [frame for frames in media for frame in frames]
            return inputs
        return {"media": list(media)} | {name: [clip[name] for clip in values] for name in names}

    def join(self, crops: Sequence[torch.Tensor], plans: Sequence[ClipPlan]) -> torch.Tensor:
        """Clips (B * C * K, T, 3, H, W), the views of a sample together, from the graph's crops."""
        if self.decoder == "jpeg":
            places = _places_of_frames(plans)
            if not np.array_equal(places, np.arange(len(crops[0]))):  # shown more than once, or in another order
                crops = [crop[torch.from_numpy(places).to(crop.device)] for crop in crops]
            crops = [crop.view(len(plans), -1, *crop.shape[1:]) for crop in crops]
        pixels = crops[0] if len(crops) == 1 else torch.stack(list(crops), 1)
        return pixels.view(-1, self.config.frames_per_clip, *pixels.shape[-3:]).permute(0, 1, 4, 2, 3)

    def _window(self, plan: ClipPlan) -> np.ndarray:
        """The part of the frame that is decoded: all of it under nvdec."""
        height, width = int(self.dataset.heights[plan.sample_id]), int(self.dataset.widths[plan.sample_id])
        if self.decoder == "nvdec":
            return np.array([0, 0, height, width], np.int32)
        return crop_window(plan.boxes, height, width, self.config.crop_size)

    def _clip_inputs(self, plan: ClipPlan) -> dict[str, np.ndarray]:
        window = self._window(plan)
        origin, size = window[:2], window[2:] - window[:2]
        room = np.maximum(size - self.config.crop_size, 1)
        values = {
            "scaled": np.array(is_scaled(plan.boxes, self.config.crop_size)),
            "color": plan.color,
            "window_start": origin,
            "window_shape": size,
        }
        for number, (box, flip) in enumerate(zip(plan.boxes, plan.flips)):
            start = (box[:2] - origin).astype(np.float32)
            values[f"start_{number}"], values[f"end_{number}"] = start, (box[2:] - origin).astype(np.float32)
            values[f"place_{number}"] = np.clip(start / room, 0, 1).astype(np.float32)
            values[f"flip_{number}"] = np.array(flip, np.int32)
        if self.decoder == "nvdec":
            frames, order = np.unique(plan.frames, return_inverse=True)
            values |= {"frames": frames, "order": order.astype(np.int32)}
        return values


def _places_of_frames(plans: Sequence[ClipPlan]) -> np.ndarray:
    """Where, in a row of each plan's distinct frames, every frame of every plan lies."""
    places, begin = [], 0
    for plan in plans:
        frames, order = np.unique(plan.frames, return_inverse=True)
        places.append(begin + order)
        begin += len(frames)
    return np.concatenate(places)
