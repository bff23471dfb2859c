"""Batches of sample ids in, clips out: workers read and decode, the graph makes pixels, a batch ahead in a thread."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.augment import effects_of
from pipeline.batching import graph_inputs, join_crops
from pipeline.buffers import BatchLayout
from pipeline.class_sampling import sample_and_epoch, sample_ids_of
from pipeline.clip_reader import ClipReader, media_bound
from pipeline.config import JPEG_DECODERS, DataConfig
from pipeline.cores import cores_per_rank
from pipeline.dali_graph import ClipGraph, Inputs
from pipeline.graph_thread import GraphThread
from pipeline.reading import SampleError
from pipeline.worker_processes import ProcessReader
from pipeline.workers import Batch, Batches, BatchReader, ReaderSettings, ThreadReader
from sharding.dataset import PackedDataset
from sharding.errors import MediaError, UserError


@dataclass(frozen=True)
class _InFlight:
    """What is known of a batch that is in the graph."""

    epoch: int
    sample_ids: np.ndarray
    labels: np.ndarray
    order: np.ndarray
    num_items: np.ndarray


class ClipStream:
    """Turns batches of sample ids into clips, ahead of whoever takes them.

    Args:
        decoder: pyav, nvdec, jpeg or nvjpeg.
        training, seed: as ClipReader takes them.
        micro_batch_size: samples of the largest batch.
        device: where the clips are wanted.
        num_batches: batches that will be asked for; no more workers are started than they can keep busy.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        config: DataConfig,
        decoder: str,
        *,
        training: bool,
        seed: int,
        micro_batch_size: int,
        device: torch.device,
        num_batches: int,
    ):
        self.dataset, self.config, self.decoder = dataset, config, decoder
        self.training, self.seed, self.device = training, seed, device
        self._num_crops = 1 if training else config.test_crops
        self._effects = effects_of(config, training)
        self._num_frames = config.frames_per_clip * (1 if training else config.test_clips)
        self._num_threads = config.num_workers or cores_per_rank()
        self._layout = self._layout_of(micro_batch_size)
        num_workers = max(1, min(self._num_threads, micro_batch_size * num_batches))
        self._settings = ReaderSettings(
            *(dataset, config, decoder, training, seed, self._layout, num_workers, config.prefetch_batches + 1)
        )
        self._reader: BatchReader | None = None
        self._graph: ClipGraph | None = None
        self._idle_graph: ClipGraph | None = None
        """The graph of the last stream, if that was read to its end."""
        self._thread: GraphThread | None = None
        self._held: list[Batch] = []
        self._in_flight: deque[_InFlight] = deque()
        self._unread: list[SampleError] = []

    def start(self, batches: Batches) -> None:
        """Begin with these batches, in order; what is left of those before is dropped."""
        reader = self.open_reader()
        self._stop_thread()
        if self._idle_graph is None and self.device.type == "cuda":
            torch.cuda.empty_cache()  # the graph has memory of its own, of which torch may hold all that is left
        self._graph, self._idle_graph = self._idle_graph or self.build_graph(self._next_inputs), None
        self._held.clear()
        self._in_flight.clear()
        self._unread = []
        reader.start(batches)
        self._thread = GraphThread(self._run_graph)

    def next(self) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
        """Return the next batch: sample ids (B,), labels (B,), or (B, C) of several a sample, and on the device clips
        (B * V, T, 3, H, W).

        Raises:
            StopIteration: there is none left.
            UserError: such as a server that gives no shards.
            Exception: a sample is bad, see `bad_samples`, or something else failed.
        """
        assert self._thread is not None, "call start first"
        of, crops = self._thread.next()
        tensors = [torch.from_dlpack(crop) for crop in crops]
        clips = join_crops(tensors, of.order, of.num_items, self.decoder, self.config.frames_per_clip)
        return sample_ids_of(of.sample_ids), of.labels, clips

    def finish(self) -> None:
        """Keep the graph for the next batches; to be called when all were taken."""
        assert self._thread is not None and self._graph is not None, "call start first"
        try:
            self._thread.next()
        except StopIteration:
            self._stop_thread()
            self._graph.reset()
            self._idle_graph = self._graph
        else:
            raise AssertionError("the stream is not at its end")

    def bad_samples(self) -> list[SampleError]:
        """Return the samples that `next` failed for: those not read, else those that the graph cannot decode.

        The graph does not say which; each that was on its way is tried alone. Under nvdec, which conceals damage, and
        pyav, where workers decode, what it fails for is no sample's fault.

        Raises:
            Exception: what the device raised, to which no sample is to blame either.
        """
        self._stop_thread()
        if self._unread:
            return self._unread
        if self.decoder not in JPEG_DECODERS:
            return []
        flying = [(of.epoch, int(draw)) for of in self._in_flight for draw in of.sample_ids]
        return [error for epoch, draw in flying if (error := self._try_alone(epoch, draw))]

    @property
    def process_ids(self) -> list[int]:
        """The worker processes that have been started."""
        return self._reader.process_ids if self._reader is not None else []

    def close(self) -> None:
        """Stop the workers, and let go of the graph."""
        if self._reader is not None:
            self._reader.close()
        self._stop_thread()
        self._graph = self._idle_graph = None

    def open_reader(self) -> BatchReader:
        """Open the workers, if they are not; Raises UserError if they cannot share memory."""
        if self._reader is not None:
            return self._reader
        if self.config.worker_type == "thread":
            self._reader = ThreadReader(self._settings)
            return self._reader
        try:
            self._reader = ProcessReader(self._settings)
            return self._reader
        except OSError as error:
            raise UserError(
                f"data.worker_type=process: no memory to share with the workers ({error.strerror}); lower "
                "data.prefetch_batches, or use data.worker_type=thread"
            ) from error

    def build_graph(self, source: Callable[[], Inputs], batch_size: int | None = None) -> ClipGraph:
        """Return a graph for batches of at most `batch_size` samples, by default those of the stream."""
        items = self._num_frames if self.decoder in JPEG_DECODERS else 1
        return ClipGraph(
            source,
            self.decoder,
            (batch_size or self._layout.batch_size) * items,
            self.config.crop_size,
            self.config.pixel_mean,
            self.config.pixel_std,
            self.device,
            self._num_threads,
            self._num_crops,
            self._effects,
        )

    def inputs_of(self, arrays: Mapping[str, np.ndarray], size: int) -> Inputs:
        """Return what the graph is fed for the first `size` samples of a batch."""
        return graph_inputs(arrays, size, self.decoder, self._num_crops, self._effects)

    def _stop_thread(self) -> None:
        if self._thread is not None:
            self._thread.stop()
            self._thread = None

    def _layout_of(self, batch_size: int) -> BatchLayout:
        bound = media_bound(self.dataset, self.config, self.decoder, self._num_frames, self.training)
        num_classes = 0 if self.dataset.label_sets is None else self.dataset.label_sets.num_classes
        num_operations = self._effects.num_operations
        return BatchLayout(batch_size, self._num_frames, self._num_crops, bound, num_classes, num_operations)

    def _run_graph(self) -> tuple[_InFlight, list]:
        """Return the next batch of crops, and what is known of it; in the thread."""
        assert self._graph is not None
        crops = self._graph.run()
        self._release()
        return self._in_flight.popleft(), crops

    def _next_inputs(self) -> Inputs:
        """Return the next batch that the workers have read; the graph's source."""
        assert self._reader is not None
        self._release()  # the graph has copied what it was given
        batch = self._reader.next()
        if batch.errors:
            ids = sample_ids_of(batch.sample_ids)
            self._unread = [SampleError(self.dataset, int(ids[i]), why) for i, why in sorted(batch.errors.items())]
            raise self._unread[0]
        self._held.append(batch)
        size, arrays = len(batch.sample_ids), batch.arrays
        copies = (arrays[name][:size].copy() for name in ("label", "order", "num_items"))
        self._in_flight.append(_InFlight(batch.epoch, batch.sample_ids, *copies))
        return self.inputs_of(arrays, size)

    def _release(self) -> None:
        assert self._reader is not None
        while self._held:
            self._reader.release(self._held.pop())

    def _try_alone(self, epoch: int, draw: int) -> SampleError | None:
        sample_id, _ = sample_and_epoch(draw, epoch)
        layout = self._layout_of(1)
        arrays = layout.views(np.empty(layout.num_bytes, np.uint8).data)
        reader = ClipReader(self.dataset, self.config, self.decoder, self.training, self.seed)
        try:
            reader.read(draw, epoch, arrays, 0)
            inputs = self.inputs_of(arrays, 1)
            self.build_graph(lambda: inputs, 1).run()
        except (OSError, MediaError) as error:
            return SampleError(self.dataset, sample_id, error)
        except UserError:
            raise
        except Exception as error:
            words = " ".join(str(error).split())
            if _OF_DEVICE.search(words):
                raise
            return SampleError(self.dataset, sample_id, f"{self.decoder} cannot decode it: {words}")
        return None


_OF_DEVICE = re.compile(r"cudaError|CUDA_ERROR|CUDA error|CUDA (runtime|driver) API|out of memory|bad_alloc")
"""In the message of an error that any sample would have met."""


def batches_of(epoch: int, steps: Iterable[np.ndarray]) -> Batches:
    """Return the micro-batches (B,) of steps (micro-batches, B), with their epoch."""
    return ((epoch, batch) for step in steps for batch in step)
