"""A planned clip through the workers' code and the graph, alone."""

from functools import partial

import numpy as np
import torch

from pipeline.augment import Effects
from pipeline.batching import graph_inputs, join_crops
from pipeline.buffers import BatchLayout
from pipeline.clip_reader import ClipReader, media_bound
from pipeline.config import DataConfig
from pipeline.dali_graph import ClipGraph
from pipeline.plan import ClipPlan
from pipeline.reading import read_packets
from sharding.dataset import PackedDataset

thread_config = partial(DataConfig, worker_type="thread")
"""For what is not about worker processes, which take half a second to start."""


def read_alone(dataset: PackedDataset, config: DataConfig, plan: ClipPlan, decoder: str) -> dict[str, np.ndarray]:
    """The arrays of a batch of one."""
    bound = media_bound(dataset, config, decoder, len(plan.frames), training=False)
    layout = BatchLayout(1, len(plan.frames), len(plan.boxes), bound, num_operations=len(plan.operations))
    arrays = layout.views(np.empty(layout.num_bytes, np.uint8).data)
    ClipReader(dataset, config, decoder, training=False, seed=0).read_plan(plan, arrays, 0)
    return arrays


def run_alone(dataset: PackedDataset, config: DataConfig, plan: ClipPlan, decoder: str) -> torch.Tensor:
    """The clips (K * C, T, 3, H, W) of a plan."""
    arrays = read_alone(dataset, config, plan, decoder)
    effects = Effects(num_operations=len(plan.operations), erasing=bool(plan.erased.any()))
    inputs = graph_inputs(arrays, 1, decoder, len(plan.boxes), effects)
    size, num_items, num_crops = config.crop_size, len(inputs["media"]), len(plan.boxes)
    statistics = config.pixel_mean, config.pixel_std
    device = torch.device("cpu")
    graph = ClipGraph(lambda: inputs, decoder, num_items, size, *statistics, device, 1, num_crops, effects)
    crops = [torch.from_dlpack(crop) for crop in graph.run()]
    return join_crops(crops, arrays["order"], arrays["num_items"], decoder, config.frames_per_clip)


def jpegs_of(dataset: PackedDataset, sample_id: int, frames: np.ndarray | None = None) -> list[bytes]:
    """The JPEGs of these frames, or of all."""
    frames = np.arange(dataset.num_frames[sample_id]) if frames is None else frames
    return [data for _, data in read_packets(dataset, sample_id, np.unique(frames))]
