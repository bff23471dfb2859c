"""The DALI graph: frames (or encoded ones) and boxes in, normalised clips out. The one module that imports DALI.

    pyav    external_source: frames, decoded by the reading threads ----------\
    nvdec   external_source: bytes of a video -> decoders.video (NVDEC) -------+-> crop and scale -> mirror, normalise
    jpeg    external_source: bytes of a frame -> decoders.image_slice ---------/
            (libjpeg-turbo on the CPU, nvJPEG on a GPU; only the cropped part is decoded)

All after the decode node is the same operators in the same order. Under jpeg the graph sees B * S single frames where
it otherwise sees B clips of S; either way they leave as (B, S, H, W, C) float32.
The GPU paths need a CUDA driver even to be built.
"""

from collections.abc import Callable

import torch
from nvidia.dali import Pipeline, fn, types
from nvidia.dali.data_node import DataNode

# ImageNet statistics in units of 8-bit pixels, as the pretrained ResNets expect.
PIXEL_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
PIXEL_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)

Source = Callable[[], tuple[list, ...]]
"""Gives the next batch as one list of arrays for each of INPUTS, or raises StopIteration."""

_BOX = {"start": (types.FLOAT, 1), "end": (types.FLOAT, 1), "flip": (types.INT32, 0)}

INPUTS = {
    "pyav": {"media": (types.UINT8, 4), **_BOX},
    "nvdec": {"media": (types.UINT8, 1), **_BOX, "frames": (types.INT32, 1)},
    "jpeg": {"media": (types.UINT8, 1), **_BOX, "window_start": (types.INT32, 1), "window_shape": (types.INT32, 1)},
}
"""What each decode node is fed, with type and number of dimensions.

media: frames (S, H, W, 3), the bytes of a video, or those of one JPEG. start, end: [top, left] and [bottom, right) of
the crop in pixels, of the frame or under jpeg of the window. flip: 1 to mirror. frames: (S,) indices. window_start,
window_shape: [top, left] and [height, width] of the part of a JPEG that is decoded.
"""


class ClipGraph:
    """A DALI pipeline that turns batches from `source` into clips.

    Args:
        source: called in `run`, a batch or two before its clips are returned.
        decoder: "pyav", "nvdec" or "jpeg".
        batch_size: the most items that `source` will give at once: clips, or under jpeg frames.
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
            inputs = _inputs(source, decoder)
            pixels = _decode(inputs, decoder, on_gpu)
            pixels = fn.resize(
                pixels, size=[crop_size] * 2, roi_start=inputs["start"], roi_end=inputs["end"], antialias=True
            )
            pixels = fn.crop_mirror_normalize(
                pixels,
                mirror=inputs["flip"],
                mean=PIXEL_MEAN,
                std=PIXEL_STD,
                dtype=types.FLOAT,
                output_layout="HWC" if decoder == "jpeg" else "FHWC",
            )
            self._pipeline.set_outputs(pixels)
        self._pipeline.build()

    def run(self) -> torch.Tensor:
        """The next frames, (B, S, H, W, 3) or under jpeg (B * S, H, W, 3), float32, owned by the caller.

        Raises:
            StopIteration: the source is at its end.
            Exception: whatever the source raised; the graph cannot be used any more.
        """
        (pixels,) = self._pipeline.run()
        return torch.from_dlpack(pixels.as_tensor())

    def finish(self) -> None:
        """Makes the graph ready for a source that begins anew; to be called when the source is at its end."""
        try:
            self._pipeline.run()
        except StopIteration:
            self._pipeline.reset()
        else:
            raise AssertionError("the source of the graph is not at its end")


def _inputs(source: Source, decoder: str) -> dict[str, DataNode]:
    kinds, dimensions = zip(*INPUTS[decoder].values())
    layouts = ["FHWC" if name == "media" and decoder == "pyav" else "" for name in INPUTS[decoder]]
    nodes = fn.external_source(
        source, num_outputs=len(kinds), dtype=list(kinds), ndim=list(dimensions), layout=layouts
    )
    return dict(zip(INPUTS[decoder], nodes))


def _decode(inputs: dict[str, DataNode], decoder: str, on_gpu: bool) -> DataNode:
    """uint8 frames: FHWC, or under jpeg HWC."""
    if decoder == "nvdec":
        return fn.decoders.video(inputs["media"], device="mixed", frames=inputs["frames"])
    if decoder == "jpeg":
        return fn.decoders.image_slice(
            inputs["media"],
            device="mixed" if on_gpu else "cpu",
            start=inputs["window_start"],
            shape=inputs["window_shape"],
            axis_names="HW",
            adjust_orientation=False,
        )
    return inputs["media"].gpu() if on_gpu else inputs["media"]
