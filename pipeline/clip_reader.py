"""From a plan to what the graph is fed: reads a sample's byte ranges, decodes them on the CPU, and lays all of it out.

This is what workers do; it needs neither torch nor DALI.
"""

from collections.abc import Mapping

import numpy as np

from pipeline.class_sampling import sample_and_epoch
from pipeline.config import DataConfig
from pipeline.crops import crop_window, is_scaled
from pipeline.nvdec import stream_overhead, wanted_stream
from pipeline.plan import ClipPlan, plan_clip
from pipeline.reading import jpeg_size, read_media, read_packets
from sharding.dataset import PackedDataset
from sharding.errors import MediaError
from sharding.video.decode import decode_frames
from sharding.video.frame_packets import PacketDecoder

Arrays = Mapping[str, np.ndarray]


class ClipReader:
    """Plans, reads and decodes samples of a dataset into the arrays of a batch. Not for several threads at once.

    Args:
        decoder: pyav, nvdec, jpeg or nvjpeg.
        training: whether clips are random; else evenly spread.
        seed: of everything random.
    """

    def __init__(self, dataset: PackedDataset, config: DataConfig, decoder: str, training: bool, seed: int):
        self.dataset, self.config, self.decoder = dataset, config, decoder
        self._which = {"training": training, "seed": seed}
        self._packets = PacketDecoder()

    def read(self, draw: int, epoch: int, arrays: Arrays, position: int, shard: int | None = None) -> None:
        """Put a sample, or a draw of one, at a position of a batch; `shard` is an open file of its shard, where the
        caller has one.

        Raises:
            OSError, MediaError: the sample cannot be read, or with pyav not be decoded.
        """
        sample_id, epoch = sample_and_epoch(draw, epoch)
        table = self.dataset
        if not min(table.num_frames[sample_id], table.widths[sample_id], table.heights[sample_id]):
            raise MediaError("decode", "no frames, or frames without pixels, as the table says")
        plan = plan_clip(self.dataset, self.config, sample_id, epoch=epoch, **self._which)
        self.read_plan(plan, arrays, position, shard)

    def read_plan(self, plan: ClipPlan, arrays: Arrays, position: int, shard: int | None = None) -> None:
        """Put a planned sample at a position of a batch. Raises OSError or MediaError."""
        frames, order = np.unique(plan.frames, return_inverse=True)
        window = self._window(plan)
        arrays["num_items"][position] = len(frames)
        arrays["frames"][position, : len(frames)] = frames
        arrays["order"][position] = order
        arrays["window"][position] = window
        self._describe(plan, window, arrays, position)
        if self.decoder == "pyav":
            self._decode(plan.sample_id, frames, order, window, arrays["media"][position], shard)
        else:
            self._copy(plan.sample_id, frames, arrays, position, shard)
        if plan.labels is None:
            arrays["label"][position] = plan.label
        else:
            arrays["label"][position] = 0
            arrays["label"][position, list(plan.labels)] = 1
        arrays["done"][position] = 1

    def _describe(self, plan: ClipPlan, window: np.ndarray, arrays: Arrays, position: int) -> None:
        origin, size = window[:2], window[2:] - window[:2]
        space = np.maximum(size - self.config.crop_size, 1)
        start = (plan.boxes[:, :2] - origin).astype(np.float32)
        arrays["start"][:, position] = start
        arrays["end"][:, position] = plan.boxes[:, 2:] - origin
        arrays["place"][:, position] = np.clip(start / space, 0, 1)
        arrays["flip"][:, position] = plan.flips
        arrays["scaled"][position] = is_scaled(plan.boxes, self.config.crop_size)
        arrays["color"][position] = plan.color
        arrays["operations"][position] = plan.operations
        arrays["erased"][position] = plan.erased

    def _decode(
        self, sample_id: int, frames: np.ndarray, order: np.ndarray, window: np.ndarray, media: np.ndarray, shard
    ) -> None:
        """Write the window (F, H, W, 3) of each planned frame."""
        top, left, bottom, right = window.tolist()
        shape = (len(order), bottom - top, right - left, 3)
        pixels = media[: np.prod(shape)].reshape(shape)
        places = {int(frame): np.flatnonzero(order == number) for number, frame in enumerate(frames)}

        def take(number: int, picture: np.ndarray) -> None:
            for place in places.get(number, ()):
                pixels[place] = picture[top:bottom, left:right]

        if self.dataset.frame_offsets(sample_id) is not None:
            size = int(self.dataset.heights[sample_id]), int(self.dataset.widths[sample_id])
            packets = read_packets(self.dataset, sample_id, frames, shard)
            self._packets.decode(self.dataset.codec_parameters(sample_id), packets, size, take)
            return
        found = decode_frames(read_media(self.dataset, sample_id, shard), frames, window)
        if found.shape[1:] != shape[1:]:
            raise MediaError("decode", "its frames are smaller than its table says")
        pixels[:] = found[order]

    def _copy(self, sample_id: int, frames: np.ndarray, arrays: Arrays, position: int, shard) -> None:
        """Write the encoded bytes: of each distinct frame's JPEG, or of a video that holds the frames."""
        if self.decoder == "nvdec":
            items = [self._video(sample_id, frames, arrays, position, shard)]
        else:
            items = [data for _, data in read_packets(self.dataset, sample_id, frames, shard)]
            size = int(self.dataset.heights[sample_id]), int(self.dataset.widths[sample_id])
            for frame, data in zip(frames, items):
                if jpeg_size(data) != size:
                    raise OSError(f"frame {frame} is damaged: no JPEG of {size[1]} x {size[0]} pixels")
        end = 0
        for number, data in enumerate(items):
            begin, end = end, end + len(data)
            arrays["media"][position, begin:end] = np.frombuffer(data, np.uint8)
            arrays["item_ends"][position, number] = end

    def _video(self, sample_id: int, frames: np.ndarray, arrays: Arrays, position: int, shard) -> bytes:
        """Return a video for NVDEC, with which of its frames are wanted: of few packets, where there is an index."""
        if self.dataset.frame_offsets(sample_id) is None:
            return read_media(self.dataset, sample_id, shard)
        packets = read_packets(self.dataset, sample_id, frames, shard)
        numbers = np.array([number for number, _ in packets])
        places = np.searchsorted(numbers, frames)
        arrays["frames"][position, : len(places)] = places
        return wanted_stream([data for _, data in packets], self.dataset.codec_parameters(sample_id))

    def _window(self, plan: ClipPlan) -> np.ndarray:
        """Return the part of the frame that is decoded: all of it under nvdec."""
        height, width = int(self.dataset.heights[plan.sample_id]), int(self.dataset.widths[plan.sample_id])
        if self.decoder == "nvdec":
            return np.array([0, 0, height, width], np.int32)
        return crop_window(plan.boxes, height, width, self.config.crop_size)


def media_bound(dataset: PackedDataset, config: DataConfig, decoder: str, num_frames: int, training: bool) -> int:
    """Return the maximum number of bytes that a sample's media take in a batch.

    Windows are bounded by the largest that any planned crop may need, so that pixels of batches whose windows are all
    of one size follow each other without gaps.
    """
    if decoder != "pyav":
        sizes = np.array([shard.bytes for shard in dataset.manifest.shards], np.int64)[dataset.shards]
        offsets = dataset.media_offsets
        in_shard = (offsets >= 0) & (dataset.media_bytes <= sizes - np.maximum(offsets, 0))  # no other can be read
        stored = dataset.media_bytes[in_shard]
        if decoder == "nvdec":
            stored = stored + stream_overhead(np.minimum(dataset.num_frames[in_shard], stored))  # a frame has a byte
        return int(stored.max(initial=1))
    sizes = np.unique(np.stack([dataset.heights, dataset.widths], 1), axis=0).tolist()
    return (
        num_frames * 3 * max((_largest_window(height, width, config, training) for height, width in sizes), default=1)
    )


def _largest_window(height: int, width: int, config: DataConfig, training: bool) -> int:
    """Return the pixels of the largest window of any crop of such frames."""
    one_box = config.crop in ("random", "center") if training else config.test_crops == 1
    if one_box and config.short_side == min(height, width):
        return config.crop_size**2  # nothing is scaled: the box has integer corners
    return height * width
