"""The loader: planned clips, read, decoded and cropped, as an iterator whose state is (epoch, step)."""

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from pipeline.batch import VideoBatch, to_device
from pipeline.class_sampling import sample_ids_of
from pipeline.clip_stream import ClipStream, batches_of
from pipeline.config import DataConfig
from pipeline.dali_graph import release_unused_memory
from pipeline.dataset import open_dataset
from pipeline.decoders import Trial, choose_decoder
from pipeline.exclusions import Exclusions
from pipeline.loader_checks import check_evaluation, check_lengths, check_training
from pipeline.plan import plan_balanced_order, plan_order, plan_rank_batches, plan_rank_evaluation
from pipeline.reading import SampleError, verify_command
from sharding.dataset import PackedDataset
from sharding.errors import UserError

log = logging.getLogger("pipeline.loader")

Agree = Callable[[list[int]], list[int]]
"""The union over all ranks of what each of them gives; called by all of them together."""
Gather = Callable[[object], list]
_MEASURED_SECONDS = 3.0


class VideoLoader:
    """Yields the `VideoBatch`es of this rank, one epoch per iteration, and continues with the next epoch.

        with VideoLoader("data/k400/train", DataConfig(), training=True, micro_batch_size=32) as loader:
            for batch in loader:    # an epoch; after a break, the next loop continues where this one stopped
                ...

    In training each epoch visits the samples in a new order, in global batches of `batch_size`, the last incomplete
    one left out; in evaluation (`training=False`) over all ranks each sample comes exactly once, in stored order, with
    all of its views.

    Its state is (`epoch`, `step`), and the samples left out as bad: step counts the optimizer steps of the epoch whose
    batches have all been handed out; with the last of them the next epoch begins. What comes after `load_state_dict` is
    what would have come.

    Args:
        dataset: a packed split, or its folder or URL; its quarantined samples are left out.
        config: sampling, crop and decode node.
        training: random or evenly spread sampling, as above.
        micro_batch_size: clips per yielded batch; with several views as many samples as fit, at least one.
        batch_size: clips per optimizer step over all ranks, a multiple of world_size * micro_batch_size, which is
            the default; without meaning in evaluation.
        seed: of everything random.
        rank: this process among `world_size`.
        device: where the clips are wanted.
        sample_ids: with `training=False`: the samples that are to come, sorted; by default all.
        gather: with more than one rank: what each of them gives, by rank, on all of them; called by all together, for
            the choice of the decode node.
        agree: with more than one rank and data.on_bad_sample=quarantine: how they inform each other of bad samples. It
            is called once a step.

    Raises:
        UserError: fewer samples than one global batch, a batch size that the ranks cannot share, a video with too few
            frames, crops that the labels do not allow.
        SampleError: in iteration, for a sample that cannot be read or decoded.
    """

    def __init__(
        self,
        dataset: PackedDataset | Path | str,
        config: DataConfig | None = None,
        *,
        training: bool,
        micro_batch_size: int,
        batch_size: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        sample_ids: np.ndarray | None = None,
        agree: Agree = lambda bad: bad,
        gather: Gather = lambda value: [value],
    ):
        config = config or DataConfig()
        if not isinstance(dataset, PackedDataset):
            dataset = open_dataset(dataset, config.cache_dir, config.cache_bytes)
        self.dataset, self.config, self.training = dataset, config, training
        self.seed, self.rank, self.world_size, self._agree = seed, rank, world_size, agree
        assert sample_ids is None or not training, "the order of training is one of all samples"
        self._sample_ids = np.arange(len(dataset)) if sample_ids is None else sample_ids
        self.num_views = 1 if training else config.num_views
        self.micro_batch_size = max(1, micro_batch_size // self.num_views)
        self.batch_size = batch_size or micro_batch_size * world_size
        self.device = torch.device(device)
        self.epoch = self.step = 0
        self._exclusions = Exclusions()
        self.steps_per_epoch = self._count_steps()
        """Optimizer steps in one epoch of training, before any sample was left out; in evaluation its batches."""
        self._check()
        trial = Trial(self._measure, gather, parameters=dataset.all_codec_parameters)
        self.decoder = choose_decoder(config.decoder, dataset, self.device, trial)
        self._stream = self._build_stream(self.decoder)

    def __enter__(self) -> "VideoLoader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of batches that this rank yields in one epoch."""
        return self.steps_per_epoch * self._micro_batches_per_step

    @property
    def excluded(self) -> tuple[int, ...]:
        """Sample ids left out as bad by this run, besides those that the dataset lists as quarantined."""
        return self._exclusions.sample_ids

    def state_dict(self) -> dict:
        """Return the position of the loader, and what it must be set up with for that to mean anything."""
        return {"epoch": self.epoch, "step": self.step, **self._exclusions.state_dict(), **self._identity()}

    def load_state_dict(self, state: dict) -> None:
        """Move to the position at which `state` was taken.

        Raises:
            UserError: the state is of another dataset, seed, batch size or sampling.
        """
        # A checkpoint that is older than a setting was made with what is now its default.
        state = {f"data.{name}": value for name, value in DataConfig().sampling_settings().items()} | state
        for name, ours in self._identity().items():
            if state.get(name) != ours:
                raise UserError(
                    f"cannot resume: the checkpoint was made with {name} {state.get(name)}, this run has {ours}; "
                    "use the same, or begin a new run in another folder"
                )
        self.epoch, self.step = state["epoch"], state["step"]
        self._exclusions.load_state_dict(state)

    def follow(self, state: dict) -> None:
        """Begin where another loader of the same samples, with other clips, ended an epoch: with its `state`."""
        self.set_epoch(state["epoch"])
        self._exclusions.load_state_dict(state)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch."""
        self.epoch, self.step = epoch, 0

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
        self._stream.finish()

    def close(self) -> None:
        """Stop the workers, and the fetching of remote shards, for which they may wait."""
        self.dataset.close()
        self._stream.close()

    @property
    def worker_process_ids(self) -> list[int]:
        """The worker processes that have been started; none with data.worker_type=thread."""
        return self._stream.process_ids

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
        kept = self._good_samples()
        if not len(kept):
            total = len(self._sample_ids)
            raise UserError(f"{self.dataset.location}: none of its {total} samples is left: all are quarantined")
        check_lengths(self.dataset, kept, self.config)
        if self.training:
            sizes = self.batch_size, self.micro_batch_size, self.world_size
            check_training(self.dataset, kept, self.config, *sizes)
        else:
            check_evaluation(self.dataset, kept, self.config)

    def _good_samples(self) -> np.ndarray:
        """Return the sample ids that are to come and that the dataset lists neither as quarantined nor as excluded."""
        return np.setdiff1d(self._sample_ids, self.dataset.left_out)

    def _evaluation_batches(self) -> list[np.ndarray]:
        return plan_rank_evaluation(self._good_samples(), self.micro_batch_size, self.rank, self.world_size)

    def _build_stream(self, decoder: str) -> ClipStream:
        return ClipStream(
            self.dataset,
            self.config,
            decoder,
            training=self.training,
            seed=self.seed,
            micro_batch_size=self.micro_batch_size,
            device=self.device,
            num_batches=len(self),
        )

    def _measure(self, decoder: str) -> float:
        """Return the clips/s of a decode node, over some seconds of batches such as the run will have."""
        ids = self._good_samples()
        starts, size = itertools.count(0, 1 + len(ids) // 7), self.micro_batch_size
        batches = (np.resize(np.roll(ids, -start), size) for start in starts)
        stream = self._build_stream(decoder)
        try:
            stream.start((0, batch) for batch in batches)
            for _ in range(2):  # the first ones wait for workers and kernels to start
                stream.next()
            began, clips = time.perf_counter(), 0
            while (seconds := time.perf_counter() - began) < _MEASURED_SECONDS:
                clips += len(stream.next()[2])
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
            return clips / seconds
        finally:
            stream.close()
            del stream
            release_unused_memory()

    def _start(self) -> int:
        """Set the workers to the rest of the current epoch; return the number of its steps."""
        steps = self._steps_of_epoch(self.epoch)
        if self.dataset.shard_source:
            rest = np.concatenate([np.empty(0, np.int64), *map(np.ravel, steps[self.step :])])
            then = sample_ids_of(np.ravel(self._steps_of_epoch(self.epoch + 1))) if self.training else None
            self.dataset.prefetch(sample_ids_of(rest), then)
        self._stream.start(batches_of(self.epoch, steps[self.step :]))
        return len(steps)

    def _steps_of_epoch(self, epoch: int) -> np.ndarray | list[np.ndarray]:
        """Return for each step of this rank its micro-batches: (micro-batches, B) sample ids, or draws of samples."""
        if not self.training:
            return [batch[None] for batch in self._evaluation_batches()]
        settings = self.config, self.batch_size, self.seed, epoch
        if self.config.class_sampling_exponent == 1:
            order = plan_order(self.dataset.shards, *settings)
        else:
            order = plan_balanced_order(self.dataset, self._good_samples(), *settings)
        if len(bad := self.dataset.left_out):
            order = order[~np.isin(sample_ids_of(order), bad)]
        # Left out of the order and not of what is ordered: what came before a sample was found bad stays as it was.
        order = self._exclusions.apply(order, epoch, self.batch_size)
        return plan_rank_batches(order, self.batch_size, self.micro_batch_size, self.rank, self.world_size)

    def _next_step(self) -> Iterator[VideoBatch]:
        """Yield the micro-batches of the next step. Raises SampleError for the sample that the graph cannot decode."""
        try:
            yield from self._run_step()
        except Exception as error:
            raise self._find_bad(error)[0] from error

    def _agreed_step(self, num_steps: int) -> tuple[Iterator[VideoBatch], int]:
        """Return the micro-batches of the next step, once all ranks have theirs, and the number of steps of this epoch.

        Samples that are bad on any rank are left out, which draws all later ones forward. The batches are empty if no
        step is left.
        """
        while self.step < num_steps:
            batches: list[VideoBatch] = []
            bad: list[SampleError] = []
            try:
                batches = list(self._run_step())
            except Exception as error:
                bad = self._find_bad(error)
            agreed = self._agree([error.sample_id for error in bad])
            if not agreed:
                return _handed_over(batches), num_steps
            for error in bad:
                log.error("left out: %s", error)
            self._leave_out(agreed)
            num_steps = self._start()
        return iter(()), num_steps

    def _find_bad(self, error: Exception) -> list[SampleError]:
        """Return the samples to blame for what the stream raised; raises it if there is none."""
        if isinstance(error, UserError) and not isinstance(error, SampleError):  # a server that gives no shards
            raise error
        bad = self._stream.bad_samples()
        if not bad:
            raise error
        return bad

    def _leave_out(self, sample_ids: list[int]) -> None:
        self._exclusions.add(sample_ids, self.epoch, self.step)
        count, most, location = len(self.excluded), self.config.max_bad_samples, self.dataset.location
        log.warning("%d bad sample(s) of %s left out so far", count, location)
        if count > most:
            raise UserError(
                f"{location}: {count} bad samples, more than data.max_bad_samples={most}; "
                f"{verify_command(self.dataset)}"
            )

    def _run_step(self) -> Iterator[VideoBatch]:
        for number in range(self._micro_batches_per_step):
            ids, labels, clips = self._stream.next()
            yield VideoBatch(
                clips,
                to_device(labels, self.device),
                torch.as_tensor(ids, dtype=torch.int64),
                is_last_micro_batch=number == self._micro_batches_per_step - 1,
                num_views=self.num_views,
                level_labels={
                    level: to_device(of_level[ids], self.device)
                    for level, of_level in self.dataset.level_labels.items()
                },
            )


def _handed_over(batches: list[VideoBatch]) -> Iterator[VideoBatch]:
    """Yield the batches and forget each: a step's clips are much memory, which then serves the next step's."""
    while batches:
        yield batches.pop(0)
