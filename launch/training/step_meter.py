"""What a stretch of training steps came to: mean losses, clips per second, time spent waiting for data, arithmetic."""

import logging
import math
import time
from collections.abc import Iterator
from datetime import timedelta

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from launch.training.distributed import Ranks, sum_over_ranks
from launch.training.mfu import Utilization
from launch.training.stall import StallTimer
from pipeline.loader import VideoBatch, VideoLoader


class DivergedError(Exception):
    """The loss or the weights are no longer numbers."""


class StepMeter:
    """Adds up the losses of steps and where their time goes, and shows a progress bar on a terminal."""

    def __init__(self, ranks: Ranks, utilization: Utilization):
        self._ranks, self._utilization = ranks, utilization
        self._stall = StallTimer(ranks.device)
        self._bar: tqdm | None = None
        self._begin()

    def _begin(self) -> None:
        self._losses: list[torch.Tensor] = []
        self._steps: list[int] = []
        self._clips = 0
        self._stall.take()
        self._began = time.perf_counter()

    def timed(self, loader: VideoLoader) -> Iterator[VideoBatch]:
        """Yield the loader's batches; the time in which the device waits for them counts as loading."""
        self._begin()  # the time of the evaluation before is not training's
        hidden = None if self._ranks.is_main_process else True  # None: hidden where there is no terminal
        batches = iter(loader)
        with (
            tqdm(total=loader.steps_per_epoch, initial=loader.step, unit="step", disable=hidden) as self._bar,
            logging_redirect_tqdm(
                _with_console() if self._ranks.is_main_process else []
            ),  # it forgets a handler's level
        ):
            self._bar.set_description(f"epoch {loader.epoch + 1}")
            while True:
                self._stall.step_ended()
                batch = next(batches, None)
                self._stall.step_begins()
                if batch is None:
                    return
                yield batch
                self._bar.update(batch.is_last_micro_batch)

    def add(self, losses: dict[str, torch.Tensor], step: int, clips: int) -> None:
        """Count a forward pass for optimizer step `step` with its losses (scalars); does not wait for the device."""
        self._names = list(losses)
        self._losses.append(torch.stack([value.detach().float() for value in losses.values()]))
        self._steps.append(step)
        self._clips += clips

    def take(self) -> dict[str, float]:
        """Return the means since the last call over all ranks, with their clips per second, the fraction of time in
        which this rank's device waited for data, and what the device is used for. Waits for the device.

        Raises:
            DivergedError: the losses of a step are not finite, on all ranks alike.
        """
        losses = sum_over_ranks(torch.stack(self._losses)) / self._ranks.world_size
        if not (means := losses.mean(0)).isfinite().all():
            row = int(losses.isfinite().all(1).logical_not().nonzero()[0])
            which = next(name for name, value in zip(self._names, losses[row]) if not math.isfinite(value))
            raise DivergedError(f"{which} is {losses[row, self._names.index(which)]:g} in step {self._steps[row]}")
        seconds = time.perf_counter() - self._began
        figures = dict(zip(self._names, means.tolist())) | {
            "clips_per_second": self._clips * self._ranks.world_size / seconds,
            "loading_share": self._stall.take() / seconds,
            **self._utilization.figures(self._clips / seconds),
        }
        self._begin()
        return figures


def _with_console() -> list[logging.Logger]:
    return [logging.getLogger(name) for name in ("launch", "model", "pipeline", "sharding")]


def describe_step(figures: dict[str, float], epochs_left: float, samples: int) -> str:
    """Return one line for people: what the step's figures say, and how long the rest of the training will take."""
    left = timedelta(seconds=round(epochs_left * samples / figures["clips_per_second"]))
    used = f", {figures['flop_utilization']:.0%} of the GPU's FLOPs" if "flop_utilization" in figures else ""
    if "peak_memory_bytes" in figures:
        used += f", {figures['peak_memory_bytes'] / 2**30:.1f} GiB"
    return (
        f"loss {figures['loss']:.4f}, lr {figures['learning_rate']:.3g}, "
        f"{figures['clips_per_second']:.1f} clips/s, {figures['loading_share']:.0%} waiting for data{used}, {left} left"
    )
