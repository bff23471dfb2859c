"""The loader: planned clips, read, decoded and cropped, as an iterator whose state is (epoch, step)."""

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.batching import Feed
from pipeline.config import DataConfig
from pipeline.dali_graph import ClipGraph, Inputs
from pipeline.decoders import choose_decoder
from pipeline.plan import ClipPlan, plan_clip, plan_order, plan_rank_batches, plan_rank_evaluation
from pipeline.reading import ReadAhead, SampleError, verify_command
from sharding.dataset import PackedDataset
from sharding.errors import UserError

log = logging.getLogger("pipeline.loader")

Agree = Callable[[list[int]], list[int]]
"""The union over all ranks of what each of them gives; called by all of them together."""


@dataclass(frozen=True, repr=False)
class VideoBatch:
    """What the network sees."""

    clips: torch.Tensor
    """(B * V, T, 3, H, W) float32, normalised, the V views of a sample together; a view of channels-last memory."""
    labels: torch.Tensor
    """(B,) int64 class ids."""
    sample_ids: torch.Tensor
    """(B,) int64 row numbers in samples.parquet."""
    is_last_micro_batch: bool = True
    """Whether this is the last of the micro-batches of an optimizer step."""
    num_views: int = 1
    """V: 1 in training."""
    level_labels: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """(B,) int64 class ids on each further level of labels; they do not change sides with a mirrored clip."""

    def __post_init__(self) -> None:
        size = len(self.sample_ids)
        assert self.clips.ndim == 5 and self.clips.shape[2] == 3, self.clips.shape
        assert len(self.clips) == size * self.num_views and self.labels.shape == self.sample_ids.shape == (size,), self
        assert all(labels.shape == (size,) for labels in self.level_labels.values()), self

    def labels_of(self, levels: Sequence[str]) -> dict[str, torch.Tensor]:
        """The labels of these further levels, each (B,), in this order."""
        return {level: self.level_labels[level] for level in levels}

    def __repr__(self) -> str:
        return f"VideoBatch(clips={tuple(self.clips.shape)}, labels={tuple(self.labels.shape)}, {self.clips.device})"


class VideoLoader:
    """Yields the `VideoBatch`es of this rank, one epoch per iteration, and goes on with the next epoch.

    In training each epoch visits the samples in a new order, in global batches of `batch_size`, the last incomplete
    one left out; in evaluation (`training=False`) over all ranks each sample comes exactly once, in stored order, with
    all of its views.

    Its state is (`epoch`, `step`), and the samples left out as bad: step counts the optimizer steps of the epoch whose
    batches have all been handed out; with the last of them the next epoch begins. What comes after `load_state_dict` is
    what would have come.

    Args:
        dataset: a packed split; its quarantined samples are left out.
        config: sampling, crop and decode node.
        training: random or evenly spread sampling, as above.
        micro_batch_size: clips per yielded batch; with several views as many samples as fit, at least one.
        batch_size: clips per optimizer step over all ranks, a multiple of world_size * micro_batch_size, which is
            the default; without meaning in evaluation.
        seed: of everything random.
        rank: this process among `world_size`.
        device: where the clips are wanted.
        agree: with more than one rank and data.on_bad_sample=quarantine: how they tell each other of bad samples. It is
            called once a step.

    Raises:
        UserError: fewer samples than one global batch, a batch size that the ranks cannot share, a video with too few
            frames, crops that the labels do not allow.
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
        agree: Agree = lambda bad: bad,
    ):
        self.dataset, self.config, self.training = dataset, config, training
        self.seed, self.rank, self.world_size, self._agree = seed, rank, world_size, agree
        self.num_views = 1 if training else config.num_views
        self.micro_batch_size = max(1, micro_batch_size // self.num_views)
        self.batch_size = batch_size or micro_batch_size * world_size
        self.device = torch.device(device)
        self.epoch = self.step = 0
        self.excluded: tuple[int, ...] = ()
        """Sample ids left out as bad by this run, besides those that the dataset lists as quarantined."""
        self.decoder = choose_decoder(config.decoder, dataset, self.device)
        self._feed = Feed(
            dataset, config, self.decoder, 1 if training else config.test_crops, training and config.changes_color
        )
        self.steps_per_epoch = self._count_steps()
        """Optimizer steps in one epoch of training, before any sample was left out; in evaluation its batches."""
        self._check()
        self._num_threads = config.num_workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="reading")
        self._graph: ClipGraph | None = None
        self._idle_graph: ClipGraph | None = None
        """The graph of the last epoch, if that was read to its end."""
        self._read_ahead: ReadAhead[ClipPlan] | None = None
        self._in_flight: deque[list[ClipPlan]] = deque()

    def __len__(self) -> int:
        """Batches that this rank yields in one epoch."""
        return self.steps_per_epoch * self._micro_batches_per_step

    def state_dict(self) -> dict:
        """Where the loader stands, and what it must be set up with for that to mean anything."""
        return {"epoch": self.epoch, "step": self.step, "excluded": list(self.excluded), **self._identity()}

    def load_state_dict(self, state: dict) -> None:
        """Goes to where `state` was taken.

        Raises:
            UserError: the state is of another dataset, seed, batch size or sampling.
        """
        for name, ours in self._identity().items():
            if state.get(name) != ours:
                raise UserError(
                    f"cannot resume: the checkpoint was made with {name} {state.get(name)}, this run has {ours}; "
                    "use the same, or begin a new run in another folder"
                )
        self.epoch, self.step, self.excluded = state["epoch"], state["step"], tuple(state["excluded"])

    def __iter__(self) -> Iterator[VideoBatch]:
        epoch = self.epoch
        num_steps = self._start()
        while self.step < num_steps:
            if self.training and self.config.on_bad_sample == "quarantine":
                batches, num_steps = self._agreed_step(num_steps)
            else:
                batches = self._next_step()
            for batch in batches:
                if batch.is_last_micro_batch:
                    self.step += 1
                    if self.step == num_steps:
                        self.epoch, self.step = epoch + 1, 0
                yield batch
            if self.epoch > epoch:
                break
        self.epoch, self.step = epoch + 1, 0
        self._graph.finish()
        self._idle_graph = self._graph

    def close(self) -> None:
        """Stops the reading threads, and the fetching of remote shards, for which they may wait."""
        self.dataset.close()
        if self._read_ahead is not None:
            self._read_ahead.cancel()
        self._pool.shutdown(cancel_futures=True)

    @property
    def _micro_batches_per_step(self) -> int:
        return self.batch_size // (self.world_size * self.micro_batch_size) if self.training else 1

    def _identity(self) -> dict:
        settings = {f"data.{name}": value for name, value in self.config.sampling_settings().items()}
        return {"dataset": self.dataset.fingerprint, "seed": self.seed, "batch_size": self.batch_size, **settings}

    def _count_steps(self) -> int:
        if self.training:
            return len(self._good_samples()) // self.batch_size
        return len(self._evaluation_batches())

    def _check(self) -> None:
        config, location = self.config, self.dataset.location
        kept = self._good_samples()
        short = kept[self.dataset.num_frames[kept] < config.min_frames]
        if len(short):
            sample_id = int(short[0])
            raise UserError(
                f"{location}, sample {self.dataset.key(sample_id)}: {self.dataset.num_frames[sample_id]} frames, but "
                f"data.min_frames={config.min_frames}; lower it, or list the sample in quarantine.jsonl"
            )
        if not self.training:
            if config.test_crops == 10 and (self.dataset.manifest.flip_pairs or not config.flip):
                reason = "the network was trained without mirroring (data.flip)" if not config.flip else ""
                reason = reason or f"that changes classes of {location} (its flip pairs)"
                raise UserError(f"data.test_crops=10 mirrors clips, but {reason}; use 1 or 3")
            return
        thinned = self.dataset.manifest.settings.get("max_frames", math.inf)
        if config.sampling == "dense" and self.dataset.manifest.profile in ("h264", "jpeg"):
            share = float(np.mean(self.dataset.num_frames[kept] >= thinned))
            if share:
                log.warning(
                    "%s: %.0f %% of the videos were cut down to %d evenly spaced frames when they were packed, so "
                    "frames of a dense clip do not follow each other as they were filmed; pack under --profile dense",
                    *(location, 100 * share, thinned),
                )
        if self.batch_size % (self.world_size * self.micro_batch_size):
            raise UserError(
                f"batch size {self.batch_size} cannot be shared: it must be a multiple of {self.world_size} rank(s) "
                f"times {self.micro_batch_size} clips per forward pass"
            )
        if self.steps_per_epoch == 0:
            raise UserError(
                f"{location}: {len(kept)} samples do not fill one batch of {self.batch_size}; use "
                f"--train.batch_size={max(1, len(kept) // self.world_size) * self.world_size} or less"
            )

    def _good_samples(self) -> np.ndarray:
        """The sample ids that the dataset does not list as quarantined."""
        return np.setdiff1d(np.arange(len(self.dataset)), self.dataset.quarantined)

    def _evaluation_batches(self) -> list[np.ndarray]:
        return plan_rank_evaluation(self._good_samples(), self.micro_batch_size, self.rank, self.world_size)

    def _start(self) -> int:
        """Sets the reading threads to the rest of the current epoch; returns the number of its steps."""
        if self._read_ahead is not None:
            self._read_ahead.cancel()
        items = self.micro_batch_size * (self._frames_per_clip if self.decoder == "jpeg" else 1)
        self._graph, self._idle_graph = self._idle_graph or self._build_graph(self._next_inputs, items), None
        self._in_flight.clear()
        steps = self._steps_of_epoch(self.epoch)
        if self.dataset.shard_source:
            rest = np.concatenate([np.empty(0, np.int64), *map(np.ravel, steps[self.step :])])
            self.dataset.prefetch(rest, self._steps_of_epoch(self.epoch + 1).ravel() if self.training else None)
        epoch = self.epoch
        plans = (self._plan(batch, epoch) for step in steps[self.step :] for batch in step)
        self._read_ahead = ReadAhead(self._pool, self._feed.read, plans, self.config.prefetch_batches)
        return len(steps)

    def _steps_of_epoch(self, epoch: int) -> Sequence[np.ndarray]:
        """For each step of this rank its micro-batches: (micro-batches, B) sample ids."""
        if not self.training:
            return [batch[None] for batch in self._evaluation_batches()]
        order = plan_order(self.dataset.shards, self.config, self.batch_size, self.seed, epoch)
        bad = np.union1d(self.dataset.quarantined, np.array(self.excluded, np.int64))
        # Left out of the order and not of what is ordered: what came before the sample stays as it was.
        order = order[~np.isin(order, bad)] if len(bad) else order
        return plan_rank_batches(order, self.batch_size, self.micro_batch_size, self.rank, self.world_size)

    def _plan(self, sample_ids: np.ndarray, epoch: int) -> list[ClipPlan]:
        which = {"training": self.training, "seed": self.seed, "epoch": epoch}
        return [plan_clip(self.dataset, self.config, int(sample_id), **which) for sample_id in sample_ids]

    @property
    def _frames_per_clip(self) -> int:
        return self.config.num_segments * (1 if self.training else self.config.test_clips)

    def _build_graph(self, source: Callable[[], Inputs], batch_size: int) -> ClipGraph:
        return ClipGraph(
            source,
            self.decoder,
            batch_size,
            self.config.crop_size,
            self.device,
            self._num_threads,
            self._feed.num_crops,
            self._feed.changes_color,
        )

    def _next_inputs(self) -> Inputs:
        """The graph's source: the next batch that the threads have read."""
        plans, read = self._read_ahead.next()
        self._in_flight.append(plans)
        return self._feed.inputs(plans, read())

    def _next_step(self) -> Iterator[VideoBatch]:
        """The micro-batches of the next step. Raises SampleError for the sample that the graph cannot decode."""
        try:
            yield from self._run_step()
        except UserError:  # such as a server that gives no shards: no fault of a sample
            raise
        except Exception as error:
            bad = self._find_bad()
            raise (bad[0] if bad else error) from error

    def _agreed_step(self, num_steps: int) -> tuple[list[VideoBatch], int]:
        """The micro-batches of the next step, after all ranks have theirs, and the number of steps of this epoch.

        Samples that are bad on any rank are left out, which draws all later ones forward. The batches are empty if no
        step is left.
        """
        while self.step < num_steps:
            batches: list[VideoBatch] = []
            bad: list[SampleError] = []
            try:
                batches = list(self._run_step())
            except UserError:
                raise
            except Exception:
                bad = self._find_bad()
                if not bad:
                    raise
            agreed = self._agree([error.sample_id for error in bad])
            if not agreed:
                return batches, num_steps
            for error in bad:
                log.error("left out: %s", error)
            self._leave_out(agreed)
            num_steps = self._start()
        return [], num_steps

    def _leave_out(self, sample_ids: list[int]) -> None:
        self.excluded = tuple(sorted({*self.excluded, *sample_ids}))
        count, most, location = len(self.excluded), self.config.max_bad_samples, self.dataset.location
        log.warning("%d bad sample(s) of %s left out so far", count, location)
        if count > most:
            raise UserError(
                f"{location}: {count} bad samples, more than data.max_bad_samples={most}; "
                f"{verify_command(self.dataset)}"
            )

    def _run_step(self) -> Iterator[VideoBatch]:
        for number in range(self._micro_batches_per_step):
            crops = self._graph.run()
            plans = self._in_flight.popleft()
            ids = [plan.sample_id for plan in plans]
            yield VideoBatch(
                self._feed.join(crops, plans),
                torch.tensor([plan.label for plan in plans], device=self.device),
                torch.tensor(ids, device=self.device),
                is_last_micro_batch=number == self._micro_batches_per_step - 1,
                num_views=self.num_views,
                level_labels={
                    level: torch.tensor(labels[ids], dtype=torch.int64, device=self.device)
                    for level, labels in self.dataset.level_labels.items()
                },
            )

    def _find_bad(self) -> list[SampleError]:
        """The bad ones among the samples on their way, each read and decoded alone: the graph does not say which."""
        return [error for plans in self._in_flight for plan in plans if (error := self._try_alone(plan))]

    def _try_alone(self, plan: ClipPlan) -> SampleError | None:
        try:
            inputs = self._feed.inputs([plan], [self._feed.read(plan)])
            self._build_graph(lambda: inputs, len(inputs["media"])).run()
        except SampleError as error:
            return error
        except UserError:
            raise
        except Exception as error:
            words = " ".join(str(error).split())
            return SampleError(self.dataset, plan.sample_id, f"{self.decoder} cannot decode it: {words}")
        return None
