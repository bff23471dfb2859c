"""The loader: planned clips, read, decoded and cropped, as an iterator whose state is (epoch, step)."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.config import DataConfig
from pipeline.graph import INPUTS, ClipGraph
from pipeline.plan import ClipPlan, crop_window, plan_clip, plan_order, plan_rank_batches, plan_rank_evaluation
from pipeline.reading import ReadAhead, SampleError, read_jpegs, read_media
from sharding.commandline import UserError
from sharding.manifest import PackedDataset
from sharding.media import MediaError, decode_frames


@dataclass(frozen=True, repr=False)
class VideoBatch:
    """What the network sees."""

    clips: torch.Tensor
    """(B, T, 3, H, W) float32, normalised; a view of channels-last memory."""
    labels: torch.Tensor
    """(B,) int64 class ids."""
    sample_ids: torch.Tensor
    """(B,) int64 row numbers in samples.parquet."""
    ends_step: bool = True
    """Whether this is the last of the micro-batches of an optimizer step."""

    def __post_init__(self) -> None:
        size = len(self.sample_ids)
        assert self.clips.ndim == 5 and self.clips.shape[2] == 3, self.clips.shape
        assert len(self.clips) == size and self.labels.shape == self.sample_ids.shape == (size,), repr(self)

    def __repr__(self) -> str:
        return f"VideoBatch(clips={tuple(self.clips.shape)}, labels={tuple(self.labels.shape)}, {self.clips.device})"


class VideoLoader:
    """Yields the `VideoBatch`es of this rank, one epoch per iteration, and goes on with the next epoch.

    In training each epoch visits the samples in a new order, in global batches of `batch_size`, the last incomplete
    one left out; in evaluation (`training=False`) over all ranks each sample comes exactly once, in stored order.

    Its state is (`epoch`, `step`): step counts the optimizer steps of the epoch whose batches have all been handed out;
    with the last of them the next epoch begins. What comes after `load_state_dict` is what would have come.

    Args:
        dataset: a packed split; its quarantined samples are left out.
        config: sampling, crop and decode node.
        training: random or central sampling, as above.
        micro_batch_size: clips per yielded batch.
        batch_size: clips per optimizer step over all ranks, a multiple of world_size * micro_batch_size, which is
            the default; without meaning in evaluation.
        seed: of everything random.
        rank: this process among `world_size`.
        device: where the clips are wanted.

    Raises:
        UserError: fewer samples than one global batch, or a batch size that the ranks cannot share.
        SampleError: in iteration, for a sample that cannot be read or decoded.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        config: DataConfig,
        *,
        training: bool,
        micro_batch_size: int,
        batch_size: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ):
        self.dataset, self.config, self.training = dataset, config, training
        self.micro_batch_size, self.seed, self.rank, self.world_size = micro_batch_size, seed, rank, world_size
        self.batch_size = batch_size or micro_batch_size * world_size
        self.device = torch.device(device)
        self.decoder = choose_decoder(config.decoder, dataset, self.device)
        self.epoch = self.step = 0
        self._sample_ids = np.setdiff1d(np.arange(len(dataset)), dataset.quarantined)
        self._check()
        threads = config.reading_threads or os.cpu_count() or 1
        self._num_threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reading")
        self._graph: ClipGraph | None = None
        self._feed: ReadAhead[ClipPlan] | None = None
        self._in_flight: deque[list[ClipPlan]] = deque()

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch of training; in evaluation the batches of this rank."""
        if self.training:
            return len(self._sample_ids) // self.batch_size
        return len(self._evaluation_batches())

    def __len__(self) -> int:
        """Batches that this rank yields in one epoch."""
        return self.steps_per_epoch * self._micro_batches_per_step

    def state_dict(self) -> dict:
        """Where the loader stands, and what it must be set up with for that to mean anything."""
        return {"epoch": self.epoch, "step": self.step, **self._identity()}

    def load_state_dict(self, state: dict) -> None:
        """Goes to where `state` was taken.

        Raises:
            UserError: the state is of another dataset, seed or batch size.
        """
        for name, ours in self._identity().items():
            if state[name] != ours:
                raise UserError(
                    f"cannot resume: the checkpoint was made with {name} {state[name]}, this run has {ours}; "
                    "use the same, or begin a new run in another folder"
                )
        self.epoch, self.step = state["epoch"], state["step"]

    def __iter__(self) -> Iterator[VideoBatch]:
        graph = self._take_graph()
        self._start_feed()
        epoch, first, end = self.epoch, self.step * self._micro_batches_per_step, len(self)
        for index in range(first, end):
            frames = graph.run()
            plans = self._in_flight.popleft()
            clips = frames.view(len(plans), -1, *frames.shape[-3:]).permute(0, 1, 4, 2, 3)
            labels = torch.tensor([plan.label for plan in plans], device=self.device)
            sample_ids = torch.tensor([plan.sample_id for plan in plans], device=self.device)
            self.step, rest = divmod(index + 1, self._micro_batches_per_step)
            if index + 1 == end:
                self.epoch, self.step = epoch + 1, 0
            yield VideoBatch(clips, labels, sample_ids, ends_step=rest == 0)
        self.epoch, self.step = epoch + 1, 0
        graph.finish()
        self._graph = graph

    def close(self) -> None:
        """Stops the reading threads."""
        if self._feed is not None:
            self._feed.cancel()
        self._pool.shutdown(cancel_futures=True)

    @property
    def _micro_batches_per_step(self) -> int:
        return self.batch_size // (self.world_size * self.micro_batch_size) if self.training else 1

    def _identity(self) -> dict:
        return {"dataset": self.dataset.fingerprint, "seed": self.seed, "batch_size": self.batch_size}

    def _check(self) -> None:
        if not self.training:
            return
        if self.batch_size % (self.world_size * self.micro_batch_size):
            raise UserError(
                f"batch size {self.batch_size} cannot be shared: it must be a multiple of {self.world_size} rank(s) "
                f"times {self.micro_batch_size} clips per forward pass"
            )
        if self.steps_per_epoch == 0:
            raise UserError(
                f"{self.dataset.directory}: {len(self._sample_ids)} samples do not fill one batch of "
                f"{self.batch_size}; lower the batch size"
            )

    def _evaluation_batches(self) -> list[np.ndarray]:
        return plan_rank_evaluation(self._sample_ids, self.micro_batch_size, self.rank, self.world_size)

    def _plans_from(self, step: int) -> Iterator[list[ClipPlan]]:
        """This rank's planned batches of the current epoch, from `step` on."""
        if self.training:
            order = plan_order(self._sample_ids, self.seed, self.epoch)
            batches = plan_rank_batches(order, self.batch_size, self.micro_batch_size, self.rank, self.world_size)
            batches = batches[step:].reshape(-1, self.micro_batch_size)
        else:
            batches = self._evaluation_batches()[step:]
        epoch = self.epoch
        for batch in batches:
            yield [
                plan_clip(
                    self.dataset, self.config, int(sample_id), training=self.training, seed=self.seed, epoch=epoch
                )
                for sample_id in batch
            ]

    def _take_graph(self) -> ClipGraph:
        """The graph of the last epoch, if that was read to its end, else a new one."""
        graph, self._graph = self._graph, None
        return graph or ClipGraph(
            self._next_inputs,
            self.decoder,
            self.micro_batch_size * (self.config.num_segments if self.decoder == "jpeg" else 1),
            self.config.crop_size,
            self.device,
            self._num_threads,
        )

    def _start_feed(self) -> None:
        """Sets the reading threads to the rest of the current epoch."""
        if self._feed is not None:
            self._feed.cancel()
        self._in_flight.clear()
        self._feed = ReadAhead(self._pool, self._read, self._plans_from(self.step), self.config.read_ahead)

    def _next_inputs(self) -> tuple[list, ...]:
        """The graph's source: the next batch that the threads have read, as one list for each of its inputs."""
        plans, media = self._feed()
        self._in_flight.append(plans)
        items = [item for plan, read in zip(plans, media) for item in self._items(plan, read)]
        return tuple([item[name] for item in items] for name in INPUTS[self.decoder])

    def _items(self, plan: ClipPlan, media: np.ndarray | list[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """What the graph is fed for one clip: one item, or under jpeg one for each frame."""
        shared = {"start": plan.box[:2], "end": plan.box[2:], "flip": np.int32(plan.flip), "frames": plan.frames}
        if self.decoder != "jpeg":
            return [shared | {"media": media}]
        size = int(self.dataset.heights[plan.sample_id]), int(self.dataset.widths[plan.sample_id])
        window = crop_window(plan.box, *size, self.config.crop_size)
        origin = window[:2].astype(np.float32)
        shared |= {"start": plan.box[:2] - origin, "end": plan.box[2:] - origin}
        shared |= {"window_start": window[:2], "window_shape": window[2:] - window[:2]}
        return [shared | {"media": jpeg} for jpeg in media]

    def _read(self, plan: ClipPlan) -> np.ndarray | list[np.ndarray]:
        """Bytes of a video for NVDEC, of each frame for the JPEG decoder; with pyav the planned frames (S, H, W, 3)."""
        if self.decoder == "jpeg":
            return read_jpegs(self.dataset, plan.sample_id, plan.frames)
        data = read_media(self.dataset, plan.sample_id)
        if self.decoder == "nvdec":
            return np.frombuffer(data, np.uint8)
        try:
            return decode_frames(data, plan.frames)
        except MediaError as error:
            raise SampleError(self.dataset, plan.sample_id, error) from error


def choose_decoder(decoder: str, dataset: PackedDataset, device: torch.device) -> str:
    """The decode node that `decoder` means for a dataset on a device.

    Raises:
        UserError: a node that cannot decode what the dataset stores, or nvdec without a GPU.
    """
    stores_jpegs = {suffix == "jpgs" for suffix in dataset.suffixes}
    if len(stores_jpegs) > 1:
        raise UserError(f"{dataset.directory}: stores both videos and JPEGs; pack them as two datasets")
    if decoder == "auto":
        return "jpeg" if stores_jpegs == {True} else "nvdec" if device.type == "cuda" else "pyav"
    if (decoder == "jpeg") is not (stores_jpegs == {True}):
        stored, fitting = ("JPEGs", "jpeg") if stores_jpegs == {True} else ("videos", "pyav or nvdec")
        raise UserError(f"data.decoder={decoder}: {dataset.directory} stores {stored}; use auto or {fitting}")
    if decoder == "nvdec" and device.type != "cuda":
        raise UserError("data.decoder=nvdec needs a GPU, and this run has none; use data.decoder=pyav")
    return decoder
