"""What a stretch of training steps came to: mean losses, clips per second, time spent waiting for data."""

import logging
import time
from collections.abc import Iterator
from datetime import timedelta

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from launch.engine import Ranks, sum_over_ranks
from pipeline.loader import VideoBatch, VideoLoader


class StepMeter:
    """Adds up the losses of steps and where their time goes, and shows a progress bar on a terminal."""

    def __init__(self, ranks: Ranks):
        self._ranks = ranks
        self._bar: tqdm | None = None
        self._begin()

    def _begin(self) -> None:
        self._sums: torch.Tensor | None = None
        self._batches = self._clips = 0
        self._waited = 0.0
        self._began = time.perf_counter()

    def timed(self, loader: VideoLoader) -> Iterator[VideoBatch]:
        """The loader's batches; the time spent waiting for them counts as loading."""
        hidden = None if self._ranks.is_first else True  # None: hidden where there is no terminal
        batches = iter(loader)
        with (
            tqdm(total=loader.steps_per_epoch, initial=loader.step, unit="step", disable=hidden) as self._bar,
            logging_redirect_tqdm([logging.getLogger("launch")]),
        ):
            self._bar.set_description(f"epoch {loader.epoch + 1}")
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                self._waited += time.perf_counter() - asked
                if batch is None:
                    return
                yield batch
                self._bar.update(batch.ends_step)

    def add(self, losses: dict[str, torch.Tensor], clips: int) -> None:
        """Counts a forward pass with its losses (scalars); does not wait for the device."""
        self._names = list(losses)
        values = torch.stack([value.detach().float() for value in losses.values()])
        self._sums = values if self._sums is None else self._sums + values
        self._batches += 1
        self._clips += clips

    def take(self) -> dict[str, float]:
        """Means since the last call over all ranks, with their clips per second and the share of time spent waiting
        for data; waits for the device."""
        means = (sum_over_ranks(self._sums) / (self._batches * self._ranks.world_size)).tolist()
        seconds = time.perf_counter() - self._began
        figures = dict(zip(self._names, means)) | {
            "clips_per_second": self._clips * self._ranks.world_size / seconds,
            "loading_share": self._waited / seconds,
        }
        self._begin()
        return figures


def describe_step(figures: dict[str, float], epochs_left: float, samples: int) -> str:
    """One line for people: what the step's figures say, and how long the rest of the training will take."""
    left = timedelta(seconds=round(epochs_left * samples / figures["clips_per_second"]))
    return (
        f"loss {figures['loss']:.4f}, learning rate {figures['learning_rate']:.3g}, "
        f"{figures['clips_per_second']:.1f} clips/s, {figures['loading_share']:.0%} waiting for data, {left} left"
    )
