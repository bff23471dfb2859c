"""The DALI graph: frames (or encoded video) and boxes in, normalised clips out. The one module that imports DALI.

    external_source -> [decoders.video on NVDEC] -> crop and scale -> mirror, normalise -> (B, T, H, W, C) float32

With `pyav` frames arrive decoded by the reading threads; with `nvdec` the bytes arrive and the GPU decodes just the
frames that the plan names. All after the decode node is the same operators in the same order for both.
The nvdec path needs a CUDA driver even to be built.
"""

from collections.abc import Callable

import torch
from nvidia.dali import Pipeline, fn, types

# ImageNet statistics in units of 8-bit pixels, as the pretrained ResNets expect.
PIXEL_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
PIXEL_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)

Source = Callable[[], tuple[list, ...]]
"""Gives the next batch as lists of arrays (media, [top, left], [bottom, right], flip[, frames]) or StopIteration."""


class ClipGraph:
    """A DALI pipeline that turns batches from `source` into clips.

    Args:
        source: called in `run`, a batch or two before its clips are returned. With "pyav" media are (S, H, W, 3)
            uint8 frames, with "nvdec" the bytes of a video as (N,) uint8, and a fifth list holds (S,) int32 frames.
        decoder: "pyav" or "nvdec".
        batch_size: the largest batch that `source` will give.
        crop_size: side of the square clips in pixels.
        device: the torch device the clips are wanted on.
        num_threads: threads of DALI's own for the pixels.
    """

    def __init__(
        self, source: Source, decoder: str, batch_size: int, crop_size: int, device: torch.device, num_threads: int
    ):
        on_gpu = device.type == "cuda"
        device_id = (device.index or 0) if on_gpu else None
        self._pipeline = Pipeline(batch_size, num_threads, device_id, exec_dynamic=True, prefetch_queue_depth=2)
        with self._pipeline:
            if decoder == "nvdec":
                encoded, start, end, flip, frames = fn.external_source(
                    source,
                    num_outputs=5,
                    dtype=[types.UINT8, types.FLOAT, types.FLOAT, types.INT32, types.INT32],
                    ndim=[1, 1, 1, 0, 1],
                )
                clips = fn.decoders.video(encoded, device="mixed", frames=frames)
            else:
                clips, start, end, flip = fn.external_source(
                    source,
                    num_outputs=4,
                    layout=["FHWC", "", "", ""],
                    dtype=[types.UINT8, types.FLOAT, types.FLOAT, types.INT32],
                    ndim=[4, 1, 1, 0],
                )
                if on_gpu:
                    clips = clips.gpu()
            clips = fn.resize(clips, size=[crop_size, crop_size], roi_start=start, roi_end=end, antialias=True)
            clips = fn.crop_mirror_normalize(
                clips, mirror=flip, mean=PIXEL_MEAN, std=PIXEL_STD, dtype=types.FLOAT, output_layout="FHWC"
            )
            self._pipeline.set_outputs(clips)
        self._pipeline.build()

    def run(self) -> torch.Tensor:
        """The next clips, (B, T, 3, H, W) float32: a view of channels-last memory, owned by the caller.

        Raises:
            StopIteration: the source is at its end.
            Exception: whatever the source raised; the graph cannot be used any more.
        """
        (clips,) = self._pipeline.run()
        return torch.from_dlpack(clips.as_tensor()).permute(0, 1, 4, 2, 3)

    def finish(self) -> None:
        """Makes the graph ready for a source that begins anew; to be called when the source is at its end."""
        try:
            self._pipeline.run()
        except StopIteration:
            self._pipeline.reset()
        else:
            raise AssertionError("the source of the graph is not at its end")
