"""Trains a network on packed shards.

    deepspeed launch/train.py --config launch/configs/demo.yaml                # all GPUs of this machine, or its CPU
    deepspeed --num_gpus 2 launch/train.py --config launch/configs/demo.yaml   # two ranks
    deepspeed --hostfile hosts launch/train.py --config …                      # the machines listed in the file
    … --train.epochs=20 --optimizer.learning_rate=0.02                         # any option of launch/config.py
    … --resume                                                                 # goes on from the last checkpoint
"""

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from launch.checkpoints import CheckpointInfo
from launch.config import Config, parse_config
from launch.engine import (
    Ranks,
    average_buffers,
    build_engine,
    deepspeed_options,
    seed_step,
    set_learning_rate,
    start_ranks,
    stop_ranks,
    sum_over_ranks,
)
from launch.meter import StepMeter, describe_step
from launch.metrics import Evaluation, evaluate
from launch.run import open_run, resume, save_run
from launch.runlog import RunLog, start_logging
from launch.schedules import learning_rate_factor
from model import build_model
from pipeline.loader import VideoBatch, VideoLoader
from sharding.commandline import UserError, run_command
from sharding.manifest import PackedDataset, load_dataset

log = logging.getLogger("launch.train")


def main(arguments: list[str] | None = None) -> None:
    config = parse_config("launch/train.py", arguments)
    train_set, val_set = load_splits(config)
    ranks = start_ranks()
    run_dir = open_run(config, ranks)
    start_logging(run_dir, ranks.rank)
    try:
        Trainer(config, ranks, train_set, val_set).train()
    except UserError:
        raise
    except Exception:
        log.exception("rank %d failed", ranks.rank)
        raise
    finally:
        stop_ranks()


def load_splits(config: Config) -> tuple[PackedDataset, PackedDataset | None]:
    """The training split and, if the configuration names one, the validation split, of the same classes."""
    if config.data.train is None:
        raise UserError("data.train is not set: give the folder of a packed training split")
    train_set = load_dataset(Path(config.data.train))
    val_set = load_dataset(Path(config.data.val)) if config.data.val else None
    if val_set and val_set.manifest.classes != train_set.manifest.classes:
        raise UserError(
            f"{config.data.val}: its classes are not those of {config.data.train}; pack both with one list of classes"
        )
    return train_set, val_set


def build_network(config: Config) -> nn.Module:
    """The network in its initial state."""
    torch.manual_seed(config.train.seed)
    try:
        return build_model(config.model)
    except ValueError as error:
        raise UserError(str(error)) from error


class Trainer:
    """One run. All that training goes on from is the engine's and the loader's; the rest follows from the step."""

    def __init__(self, config: Config, ranks: Ranks, train_set: PackedDataset, val_set: PackedDataset | None):
        self.config, self.ranks, self.train_set = config, ranks, train_set
        self.run_dir = Path(config.run_dir)
        options = deepspeed_options(config, ranks.world_size)
        micro = options["train_micro_batch_size_per_gpu"]
        shared = {"rank": ranks.rank, "world_size": ranks.world_size, "device": ranks.device, "micro_batch_size": micro}
        train = config.train
        self.loader = VideoLoader(
            train_set, config.data, training=True, batch_size=train.batch_size, seed=train.seed, **shared
        )
        self.val_loader = None
        if val_set is not None:
            self.val_loader = VideoLoader(val_set, config.data, training=False, **shared)
        self.engine = build_engine(config, build_network(config), options, ranks)
        self.best = resume(self.run_dir, self.engine, self.loader) if config.resume == "auto" else None
        self.log = RunLog(self.run_dir, ranks.rank, self.step)

    @property
    def step(self) -> int:
        """Optimizer steps taken since the beginning of the run."""
        return self.loader.epoch * self.loader.steps_per_epoch + self.loader.step

    def train(self) -> None:
        epochs = self.config.train.epochs
        log.info("%s", self.describe())
        while self.loader.epoch < epochs:
            self.train_epoch()
            average_buffers(self.engine.module, self.ranks.world_size)
            self.save(self.evaluate())
        self.log.close()
        log.info("finished %d epochs in %s", epochs, self.run_dir)

    def describe(self) -> str:
        """What is about to be trained, in a line; all of it is in config.yaml."""
        model, train = self.config.model, self.config.train
        parameters = sum(parameter.numel() for parameter in self.engine.module.parameters())
        return (
            f"{model.arch}-{model.depth}, {parameters / 1e6:.2f} M parameters, {model.num_classes} classes; "
            f"{len(self.train_set)} samples, {self.loader.steps_per_epoch} steps of {train.batch_size} clips an epoch; "
            f"{self.ranks.world_size} rank(s), {self.ranks.device.type}, {train.precision}; learning rate "
            f"{self.config.optimizer.scaled_learning_rate(train.batch_size):g}"
        )

    def train_epoch(self) -> None:
        """What is left of the loader's epoch."""
        train = self.config.train
        self.engine.train()
        meter = StepMeter(self.ranks)
        times_seen = torch.zeros(len(self.train_set), dtype=torch.int32, device=self.ranks.device)
        for batch in meter.timed(self.loader):
            meter.add(self.train_step(batch), len(batch.labels))
            times_seen[batch.sample_ids] += 1
            if not batch.ends_step:
                continue
            if self.step % train.log_every_steps == 0 or self.loader.step == 0:
                self.log_step(meter.take())
            if train.save_every_steps and self.step % train.save_every_steps == 0 and self.loader.step > 0:
                average_buffers(self.engine.module, self.ranks.world_size)
                self.save()
        sum_over_ranks(times_seen)
        figures = {"samples_seen": int((times_seen > 0).sum()), "most_times_seen": int(times_seen.max())}
        self.log.write("epoch", self.step, epoch=self.loader.epoch, **figures)

    def log_step(self, figures: dict[str, float]) -> None:
        steps = self.loader.steps_per_epoch
        figures = figures | {"epoch": self.step / steps, "learning_rate": self.learning_rate(self.step - 1)}
        self.log.write("train", self.step, **figures)
        epochs_left = self.config.train.epochs - figures["epoch"]
        line = describe_step(figures, epochs_left, steps * self.config.train.batch_size)
        log.info("epoch %.2f, step %d: %s", figures["epoch"], self.step, line)

    def train_step(self, batch: VideoBatch) -> dict[str, torch.Tensor]:
        """Forward, backward and, once the batch is complete, the optimizer's step; returns the losses."""
        engine, weights = self.engine, self.config.loss
        seed_step(engine, self.config.train.seed, self.ranks.rank)
        outputs = engine(batch.clips, with_losses=True)
        classification = F.cross_entropy(outputs.logits.float(), batch.labels)
        loss = (
            classification
            + weights.interaction * outputs.interaction_loss
            + weights.capacity * outputs.capacity_loss
        )
        engine.backward(loss)
        set_learning_rate(engine, self.learning_rate(engine.global_steps))
        engine.step()
        losses = {"loss": loss, "classification": classification}
        for index, stage in enumerate(engine.module.synthesizer_names):
            losses[f"interaction/{stage}"] = outputs.interaction_losses[index]
            losses[f"capacity/{stage}"] = outputs.capacity_losses[index]
            losses[f"mean_gate/{stage}"] = outputs.mean_gates[index]
        return losses

    def learning_rate(self, step: int) -> float:
        """Of the optimizer step that follows `step` others."""
        train = self.config.train
        factor = learning_rate_factor(self.config.schedule, step, self.loader.steps_per_epoch, train.epochs)
        return self.config.optimizer.scaled_learning_rate(train.batch_size) * factor

    def evaluate(self) -> Evaluation | None:
        """Accuracy on the validation split, if there is one."""
        if self.val_loader is None:
            return None
        num_classes, precision = self.config.model.num_classes, self.config.train.precision
        evaluation = evaluate(self.engine.module, self.val_loader, num_classes, precision)
        self.log.write("evaluation", self.step, epoch=self.loader.epoch, **evaluation.figures())
        log.info("after epoch %d: %s", self.loader.epoch, evaluation)
        return evaluation

    def save(self, evaluation: Evaluation | None = None) -> None:
        """A checkpoint of this moment; the best one if no other has a higher top-1 accuracy."""
        is_best = evaluation is not None and (self.best is None or evaluation.top1 >= self.best)
        if is_best:
            self.best = evaluation.top1
        info = CheckpointInfo(
            step=self.step,
            epoch=self.loader.epoch,
            classes=self.train_set.manifest.classes,
            packing=self.train_set.manifest.settings,
            train_fingerprint=self.train_set.fingerprint,
            metrics=evaluation.figures() if evaluation else {},
        )
        state = {"loader": self.loader.state_dict(), "best": self.best}
        save_run(self.run_dir, self.engine, state, info, self.config, self.ranks, is_best)


if __name__ == "__main__":
    run_command(main, "launch/train.py")
