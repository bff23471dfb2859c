"""The DALI graph: frames (or encoded ones) and boxes in, normalised crops out. The one module that imports DALI.

    pyav    external_source: windows of frames, decoded by the reading threads -\
    nvdec   external_source: bytes of a video -> decoders.video (NVDEC) ---------+-> colour -> for each crop: scale, if
    jpeg,   external_source: bytes of a frame -> decoders.image_slice -----------/   it is, -> crop, mirror, normalise
    nvjpeg  (libjpeg-turbo on the CPU, nvJPEG on a GPU; only the window is decoded)

RandAugment, where it is asked for, is between mirroring and normalising; random erasing is last.

All after the decode node is the same operators in the same order. A window is the part of a frame in which all crops
are, so frames are decoded once however many crops there are. Under jpeg and nvjpeg the graph sees single frames where
it otherwise sees clips of them. The GPU paths need a CUDA driver even to be built.
"""

import gc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from nvidia import dali
from nvidia.dali.auto_aug import augmentations, core, rand_augment
from nvidia.dali.types import DALIDataType

from pipeline.augment import NO_EFFECTS, NUM_BINS, OPERATIONS, Effects
from pipeline.config import JPEG_DECODERS

# DALI's stubs know neither what `pipeline_def` makes of a function, nor conditions on nodes, nor nodes given as **.
fn: Any = dali.fn
backend: Any = dali.backend
pipeline_def: Any = dali.pipeline_def
augmentation: Any = core.augmentation

DALI_VERSION = dali.__version__

Inputs = dict[str, list[np.ndarray] | np.ndarray]
"""What the graph is fed for N items, clips or under jpeg frames: an entry of length N for each of `input_types`."""


def input_types(decoder: str, num_crops: int, effects: Effects) -> dict[str, tuple[DALIDataType, int]]:
    """Return what a graph is fed: of each input the type and the number of dimensions of one item.

    media: the frames (F, H, W, 3), cut to the window; the bytes of a video; or those of one JPEG. scaled: whether the
    crops are scaled. color, operations, erased: as in ClipPlan. start_c, end_c: [top, left] and [bottom, right) of crop
    c in pixels of what is decoded. place_c: where an unscaled crop is, (top, left) as a fraction of the free space.
    flip_c: whether it is mirrored. frames: (U,) the frames to decode; order: (F,) which of them to take. window_start,
    window_shape: [top, left] and [height, width] of the part that is decoded of a JPEG, and kept of the frames of a
    video.
    """
    inputs = {"media": (DALIDataType.UINT8, 4 if decoder == "pyav" else 1), "scaled": (DALIDataType.BOOL, 0)}
    if effects.color:
        inputs |= {"color": (DALIDataType.FLOAT, 1)}
    if effects.num_operations:
        inputs |= {"operations": (DALIDataType.INT32, 2)}
    if effects.erasing:
        inputs |= {"erased": (DALIDataType.FLOAT, 1)}
    for crop in range(num_crops):
        inputs |= {f"start_{crop}": (DALIDataType.FLOAT, 1), f"end_{crop}": (DALIDataType.FLOAT, 1)}
        inputs |= {f"place_{crop}": (DALIDataType.FLOAT, 1), f"flip_{crop}": (DALIDataType.INT32, 0)}
    if decoder == "nvdec":
        inputs |= {"frames": (DALIDataType.INT32, 1), "order": (DALIDataType.INT32, 1)}
    if decoder != "pyav":
        inputs |= {"window_start": (DALIDataType.INT32, 1), "window_shape": (DALIDataType.INT32, 1)}
    return inputs


class ClipGraph:
    """A DALI pipeline that turns batches from `source` into crops.

    Args:
        source: called in `run`, a batch or two before its crops are returned; gives `Inputs` or raises StopIteration.
        decoder: pyav, nvdec, jpeg or nvjpeg.
        batch_size: items in the largest batch.
        crop_size: side of a crop in pixels.
        mean: of R, G and B, subtracted from the pixels, 0 to 255.
        std: what they are divided by.
        num_crops: crops of each item.
        effects: which of the plan's changes of colour, operations and erased boxes are to be applied.
        device: the torch device the crops are wanted on.
        num_threads: threads of DALI's own for the pixels.
    """

    def __init__(
        self,
        source: Callable[[], Inputs],
        decoder: str,
        batch_size: int,
        crop_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        num_threads: int,
        num_crops: int = 1,
        effects: Effects = NO_EFFECTS,
    ):
        on_gpu = device.type == "cuda"
        named = input_types(decoder, num_crops, effects)

        def give() -> tuple:  # here, where DALI does not rewrite it
            inputs = source()
            return tuple(inputs[name] for name in named)

        self._pipeline = _build_graph(
            batch_size=batch_size,
            num_threads=num_threads,
            device_id=(device.index or 0) if on_gpu else None,
            give=give,
            named=named,
            decoder=decoder,
            on_gpu=on_gpu,
            crop_size=crop_size,
            mean=list(mean),
            std=list(std),
            num_crops=num_crops,
            num_operations=effects.num_operations,
        )
        self._pipeline.build()

    def run(self) -> list:
        """Return the next batch, for each crop (N, F, H, W, 3) or under jpeg (N, H, W, 3), float32.

        They are DALI's tensors: `torch.from_dlpack`, in the thread that uses them, makes torch's of them, and lets its
        stream wait for them. Their memory is the caller's.

        Raises:
            StopIteration: the source is at its end.
            Exception: whatever the source raised, or DALI; the graph cannot be used any more.
        """
        return [crop.as_tensor() for crop in self._pipeline.run()]

    def reset(self) -> None:
        """Make the graph, whose source was at its end, ready for a source that begins again."""
        self._pipeline.reset()


def release_unused_memory() -> None:
    """Give back the memory of graphs that nobody uses any more, which DALI otherwise keeps for others of its own."""
    gc.collect()  # a graph and its source refer to each other
    backend.ReleaseUnusedMemory()


@pipeline_def(exec_dynamic=True, prefetch_queue_depth=2, enable_conditionals=True)
def _build_graph(give, named, decoder, on_gpu, crop_size, mean, std, num_crops, num_operations):
    inputs = _inputs(give, named, decoder)
    pixels = _decode(inputs, decoder, on_gpu)
    if "color" in inputs:
        brightness, contrast, saturation, hue = (inputs["color"][i] for i in range(4))
        pixels = fn.color_twist(pixels, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
    crops = []
    for c in range(num_crops):
        # Scaling costs six times what the rest does, also where it changes nothing: it is decided for each sample.
        if inputs["scaled"]:
            crop = fn.resize(
                pixels,
                size=[crop_size] * 2,
                roi_start=inputs[f"start_{c}"],
                roi_end=inputs[f"end_{c}"],
                antialias=True,
            )
        else:
            crop = pixels
        crops.append(_finish(crop, inputs, c, crop_size, mean, std, num_operations, decoder))
    return tuple(crops)


def _finish(
    pixels: Any,
    inputs: dict[str, Any],
    c: int,
    crop_size: int,
    mean: list[float],
    std: list[float],
    num_operations: int,
    decoder: str,
) -> Any:
    """Return the node of crop c from that of its scaled pixels: cropped, mirrored, augmented, normalised."""
    layout = "HWC" if decoder in JPEG_DECODERS else "FHWC"
    place = {
        "crop": (crop_size, crop_size),
        "crop_pos_y": inputs[f"place_{c}"][0],
        "crop_pos_x": inputs[f"place_{c}"][1],
        "mirror": inputs[f"flip_{c}"],
    }
    if num_operations:
        pixels = fn.crop_mirror_normalize(pixels, **place, dtype=DALIDataType.UINT8, output_layout=layout)
        pixels = _apply_operations(pixels, inputs["operations"], num_operations, crop_size)
        place = {}
    statistics = {"mean": mean, "std": std}
    pixels = fn.crop_mirror_normalize(pixels, **place, **statistics, dtype=DALIDataType.FLOAT, output_layout=layout)
    if "erased" not in inputs:
        return pixels
    start, end = inputs["erased"][:2], inputs["erased"][2:]
    return fn.erase(pixels, anchor=start, shape=end - start, axis_names="HW", fill_value=0)  # the mean colour


# DALI's own two call these operators by names that are deprecated, of which each graph would warn.
@augmentation(
    mag_range=(0, 0.9),
    randomly_negate=True,
    mag_to_param=augmentations.sharpness_kernel,
    param_device="auto",
    name="sharpness",
)
def _sharpness(pixels: Any, kernel: Any) -> Any:
    return fn.filter(pixels, kernel)


@augmentation(name="equalize")
def _equalize(pixels: Any, _: Any) -> Any:
    return fn.equalize(pixels)


def _apply_operations(pixels: Any, operations: Any, num_operations: int, crop_size: int) -> Any:
    """Return the node of uint8 crops after RandAugment's operations, (n, 3) for each item as in ClipPlan."""
    known: dict[str, Any] = {
        operation.name: operation for operation in rand_augment.get_rand_augment_suite(use_shape=True)
    }
    known |= {"sharpness": _sharpness, "equalize": _equalize}
    suite = [known[name] for name in OPERATIONS]
    shape = (crop_size, crop_size)
    for i in range(num_operations):
        magnitude = core.signed_bin(operations[i, 1], operations[i, 2])
        given = {"magnitude_bin": magnitude, "num_magnitude_bins": NUM_BINS, "shape": shape, "fill_value": 128}
        pixels = core.select(suite, operations[i, 0], pixels, **given)
    return pixels


def _inputs(give: Callable[[], tuple], named: dict, decoder: str) -> dict[str, Any]:
    """Return the node of each input."""
    kinds, dimensions = zip(*named.values())
    nodes = fn.external_source(
        give,
        num_outputs=len(named),
        dtype=list(kinds),
        ndim=list(dimensions),
        layout=["FHWC" if name == "media" and decoder == "pyav" else "" for name in named],
    )
    return dict(zip(named, nodes))


def _decode(inputs: dict[str, Any], decoder: str, on_gpu: bool) -> Any:
    """Return the node of the uint8 windows of frames: FHWC, or under jpeg and nvjpeg HWC."""
    window: dict[str, Any] = {"axis_names": "HW"}
    if decoder != "pyav":
        window |= {"start": inputs["window_start"], "shape": inputs["window_shape"]}
    if decoder == "nvdec":
        frames = fn.decoders.video(inputs["media"], device="mixed", affine=False, frames=inputs["frames"])
        # A frame is as large as it is coded: what is beyond its right and bottom edge is not of the picture.
        return fn.sequence_rearrange(fn.slice(frames, **window), new_order=inputs["order"])
    pixels = inputs["media"]
    if decoder in JPEG_DECODERS:
        device = "mixed" if decoder == "nvjpeg" else "cpu"
        pixels = fn.decoders.image_slice(pixels, device=device, adjust_orientation=False, **window)
    return pixels.gpu() if on_gpu and decoder != "nvjpeg" else pixels


def decode_by_nvdec(media: bytes, device_id: int) -> np.ndarray:
    """Return all frames of a video, uint8 (F, H, W, 3), decoded by NVDEC alone. Raises what DALI raises."""

    @pipeline_def(batch_size=1, num_threads=1, device_id=device_id, exec_dynamic=True)
    def graph():
        video = fn.external_source(lambda: [np.frombuffer(media, np.uint8)], dtype=DALIDataType.UINT8, ndim=1)
        return fn.decoders.video(video, device="mixed", affine=False)

    (frames,) = graph().run()
    return torch.from_dlpack(frames.as_tensor())[0].cpu().numpy()
