"""From the arrays of a batch to what the graph is fed, and from what it returns to clips."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from pipeline.augment import Effects
from pipeline.batch import to_device
from pipeline.config import JPEG_DECODERS
from pipeline.dali_graph import Inputs, input_types


def graph_inputs(arrays: Mapping[str, np.ndarray], size: int, decoder: str, num_crops: int, effects: Effects) -> Inputs:
    """Return what the graph is fed for the first `size` samples of a batch, as views of its arrays.

    An entry has an item for each sample, or of JPEGs for each distinct frame.
    """
    named: dict[str, np.ndarray] = {name: arrays[name][:size] for name in ("scaled", "color", "operations", "erased")}
    for crop in range(num_crops):
        for name in ("start", "end", "place", "flip"):
            named[f"{name}_{crop}"] = arrays[name][crop, :size]
    window = arrays["window"][:size]
    named |= {"window_start": window[:, :2], "window_shape": window[:, 2:] - window[:, :2]}
    inputs: Inputs = {name: named[name] for name in input_types(decoder, num_crops, effects) if name in named}
    counts = arrays["num_items"][:size]
    if decoder in JPEG_DECODERS:
        inputs = {name: np.repeat(values, counts, axis=0) for name, values in inputs.items()}
        inputs["media"] = [item for position in range(size) for item in _items(arrays, position)]
    elif decoder == "nvdec":
        inputs["media"] = [arrays["media"][i, : arrays["item_ends"][i, 0]] for i in range(size)]
        inputs["frames"] = [arrays["frames"][i, : counts[i]] for i in range(size)]
        inputs["order"] = list(arrays["order"][:size])
    else:
        inputs["media"] = _windows(arrays, size)
    return inputs


def join_crops(
    crops: Sequence[torch.Tensor], order: np.ndarray, num_items: np.ndarray, decoder: str, clip_frames: int
) -> torch.Tensor:
    """Return clips (B * C * K, T, 3, H, W), the views of a sample together, from the graph's crops.

    Args:
        crops: for each crop (B, F, H, W, 3), or of JPEGs (distinct frames of all samples, H, W, 3).
        order: (B, F) which of the sample's distinct frames each frame is.
        num_items: (B,) distinct frames of each sample.
        clip_frames: T, frames of a clip.
    """
    if decoder in JPEG_DECODERS:
        places = (order + (np.cumsum(num_items) - num_items)[:, None]).ravel()
        if not np.array_equal(places, np.arange(len(crops[0]))):  # shown more than once, or in another order
            at = to_device(places, crops[0].device)
            crops = [crop[at] for crop in crops]
        crops = [crop.view(len(order), -1, *crop.shape[1:]) for crop in crops]
    pixels = crops[0] if len(crops) == 1 else torch.stack(list(crops), 1)
    return pixels.view(-1, clip_frames, *pixels.shape[-3:]).permute(0, 1, 4, 2, 3)


def _items(arrays: Mapping[str, np.ndarray], position: int) -> list[np.ndarray]:
    media, begin, items = arrays["media"][position], 0, []
    for end in arrays["item_ends"][position, : arrays["num_items"][position]].tolist():
        items.append(media[begin:end])
        begin = end
    return items


def _windows(arrays: Mapping[str, np.ndarray], size: int) -> np.ndarray | list[np.ndarray]:
    """Return the windows (F, H, W, 3) of each sample: one array where they are of one size and follow each other."""
    media, num_frames = arrays["media"], arrays["order"].shape[1]
    shapes = arrays["window"][:size, 2:] - arrays["window"][:size, :2]
    height, width = shapes[0].tolist()
    if (shapes == shapes[0]).all() and num_frames * height * width * 3 == media.shape[1]:
        return media[:size].reshape(size, num_frames, height, width, 3)
    return [media[i, : num_frames * h * w * 3].reshape(num_frames, h, w, 3) for i, (h, w) in enumerate(shapes.tolist())]
