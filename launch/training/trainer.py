"""A run of training, or a phase of it, from top to bottom: epochs, steps, logs, evaluations, checkpoints."""

import gc
import logging
import shlex
from collections.abc import Callable
from pathlib import Path

import torch

from launch.training.batch_norm import set_training_mode
from launch.training.best_checkpoint import describe_best, record_evaluation
from launch.training.builders import (
    build_loaders,
    build_network,
    describe_labels,
    describe_length,
    describe_run,
)
from launch.training.checkpoint import CheckpointInfo
from launch.training.class_weights import find_class_weights
from launch.training.config import Config
from launch.training.distillation import teacher_fingerprint, with_teacher
from launch.training.distributed import Agreement, Ranks, any_rank, errors_on_all_ranks, sum_over_ranks
from launch.training.early_stopping import TrainingAccuracy, epochs_without_gain, read_monitored
from launch.training.ema import WeightEma
from launch.training.engine import (
    average_buffers,
    build_engine,
    deepspeed_options,
    is_finite,
    note_loss,
    seed_step,
    set_learning_rate,
)
from launch.training.garbage import frozen_heap, no_automatic_collection
from launch.training.losses import training_losses
from launch.training.lr_schedule import learning_rate_factor
from launch.training.mfu import Utilization
from launch.training.mixup import build_mixing
from launch.training.preemption import StopRequest
from launch.training.run_dir import (
    PhaseEnd,
    begin_phase,
    resume,
    save_run,
    take_weights,
)
from launch.training.run_log import RunLog
from launch.training.step_meter import DivergedError, StepMeter, describe_step
from launch.training.validation import validate
from model.resnet import to_channels_last
from pipeline.loader import VideoBatch
from sharding.dataset import PackedDataset
from sharding.errors import redacted

log = logging.getLogger("launch.training.trainer")


class Trainer:
    """One run, or a phase of it that follows on another. All that training resumes from is the engine's, the loader's
    and the average's; the rest follows from the step."""

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        train_set: PackedDataset,
        val_set: PackedDataset | None,
        before: PhaseEnd | None = None,
    ):
        self.config, self.ranks, self.train_set = config, ranks, train_set
        self.run_dir, train = Path(config.run_dir), config.train
        options = deepspeed_options(config, ranks.world_size)
        micro_batch_size, agree = options["train_micro_batch_size_per_gpu"], Agreement()
        with errors_on_all_ranks(ranks):
            self.loader, self.val_loader = build_loaders(config, ranks, micro_batch_size, train_set, val_set, agree)
            net = self.net = build_network(config)
            trained = with_teacher(net, config, train_set.manifest.classes, ranks.device)
        if before is not None:
            take_weights(net, self.run_dir)
        self.average = WeightEma(net, train.ema_decay, ranks.device)
        self.mix = build_mixing(train, config.model.num_classes)
        weights = find_class_weights(config, train_set)
        self.class_weights = None if weights is None else torch.tensor(weights, device=ranks.device)
        self.accuracy = TrainingAccuracy(ranks.device)
        self.engine = build_engine(config, trained, options, ranks)
        if train.zero_stage == 0:
            to_channels_last(self.average.module)  # as the engine has laid out the network
        utilization = Utilization(config.model, config.data.crop_size, ranks.device, train.precision)
        self.meter = StepMeter(ranks, utilization)
        self.evaluation_due = False
        if before is not None:
            begin_phase(before, self.run_dir, self.engine, self.loader, self.average)
        elif config.resume != "never":
            self.evaluation_due = resume(self.run_dir, self.engine, self.loader, self.average, ranks)
        self.log = RunLog(self.run_dir, ranks.rank, self.step, config.without_secrets() if train.wandb else None)
        self.stop = StopRequest(ranks)

    @property
    def step(self) -> int:
        """Optimizer steps taken since the beginning of the run."""
        return self.engine.global_steps

    def train(self, enough: Callable[[], bool] = lambda: False) -> bool:
        """Train until the last epoch, or until it is `enough`, which is asked before each, or until a signal asks to
        leave: then save all, and return False."""
        log.info("%s", describe_run(self.config, self.ranks, self.net, self.loader))
        log.info("%s", describe_length(self.config, self.loader.steps_per_epoch))
        if sets := self.train_set.label_sets:
            log.info("%s", describe_labels(sets))
        if self.config.resume == "extend":
            rate = self.learning_rate(self.engine.global_steps)
            log.info("extended after %d epochs: the learning rate goes on at %.3g", self.loader.epoch, rate)
        with frozen_heap():
            if self.evaluation_due:
                self.evaluate()
            while not enough() and self.loader.epoch < self.config.train.epochs and not self.is_stopped_early():
                with no_automatic_collection():
                    finished = self.train_epoch()
                if not finished:
                    return False
                self.save()
                if self.stop.asked():
                    return False
                self.evaluate()
        log.info("finished %d epochs in %s", self.loader.epoch, self.run_dir)
        if self.val_loader is not None and self.ranks.is_main_process:
            log.info("%s", describe_best(self.run_dir, self.config.monitored_figure))
            val = self.config.data.val
            assert val is not None  # it has a loader
            command = ["python", "launch/evaluate.py", "--checkpoint", str(self.run_dir), "--data", redacted(val)]
            log.info("next: %s", shlex.join(command))
        return True

    def end(self) -> PhaseEnd:
        """Return what the next phase resumes from."""
        return PhaseEnd(self.loader.state_dict(), self.engine.global_steps)

    def close(self) -> None:
        """Stop the reading threads and write out what is buffered."""
        for loader in (self.loader, self.val_loader):
            if loader is not None:
                loader.close()
        self.log.close()

    def train_epoch(self) -> bool:
        """Train on what is left of the loader's epoch; return False if a signal ended it in the middle."""
        train = self.config.train
        set_training_mode(self.engine, train)
        sample_ids: list[torch.Tensor] = []
        for batch in self.meter.timed(self.loader):
            losses = self.train_step(batch)
            self.meter.add(losses, self.engine.global_steps + (not batch.is_last_micro_batch), len(batch.labels))
            sample_ids.append(batch.sample_ids)  # counted later: on a GPU each step would wait for them
            if not batch.is_last_micro_batch:
                continue
            self.average.update()
            if self.step % train.log_every_steps == 0 or self.loader.step == 0:
                self.log_step(self.meter.take())
                gc.collect()  # here, where all ranks have just waited for each other
            if self.loader.step > 0 and self.save_within_epoch():
                return False
        times_seen = sum_over_ranks(count_samples(sample_ids, len(self.train_set)))
        figures: dict[str, float] = {"samples_seen": int((times_seen > 0).sum())}
        figures["most_times_seen"] = int(times_seen.max())
        figures["excluded"] = len(self.loader.excluded)
        if (top1 := self.accuracy.take()) is not None:
            figures["top1"] = top1
            log.info("epoch %d: top-1 %.2f %% of the clips trained on", self.loader.epoch, 100 * top1)
        self.log.write("epoch", self.step, epoch=self.loader.epoch, **figures)
        return True

    def is_stopped_early(self) -> bool:
        """Return whether the monitored figure has not risen for train.patience_epochs: the same on all ranks."""
        patience, monitor = self.config.train.patience_epochs, self.config.monitored_figure
        if not patience:
            return False
        values = read_monitored(self.run_dir, monitor) if self.ranks.is_main_process else {}
        if stopped := any_rank(epochs_without_gain(values) >= patience, self.ranks):
            log.info("%s has not risen for train.patience_epochs=%d: stopping", monitor, patience)
        return stopped

    def train_step(self, batch: VideoBatch) -> dict[str, torch.Tensor]:
        """Run forward, backward and, once the batch is complete, the optimizer's step; return the losses."""
        engine, net = self.engine, self.net
        seed_step(engine, self.config.train.seed, self.ranks.rank)
        clips, labels = self.mix(batch.clips, batch.labels)
        outputs = engine(clips, *batch.labels_of(net.given_levels).values(), with_losses=True)
        level_labels = batch.labels_of(net.level_names)
        self.accuracy.add(outputs.logits, labels)
        names, weights = net.synthesizer_names, self.class_weights
        multi_label = self.config.model.multi_label
        losses = training_losses(outputs, labels, self.config.loss, names, level_labels, multi_label, weights)
        engine.backward(losses["loss"])
        set_learning_rate(engine, self.learning_rate(engine.global_steps))
        note_loss(engine, losses["loss"], self.loader.steps_per_epoch)
        engine.step()
        return losses

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of the optimizer step that follows `step` others."""
        train = self.config.train
        factor = learning_rate_factor(self.config.schedule, step, self.loader.steps_per_epoch, train.epochs)
        return self.config.optimizer.scaled_learning_rate(train.batch_size) * factor

    def log_step(self, figures: dict[str, float]) -> None:
        steps = self.loader.steps_per_epoch
        epoch = self.loader.epoch + self.loader.step / steps
        figures = figures | {"epoch": epoch, "learning_rate": self.learning_rate(self.step - 1)}
        self.log.write("train", self.step, **figures)
        epochs_left = self.config.train.epochs - figures["epoch"]
        line = describe_step(figures, epochs_left, steps * self.config.train.batch_size)
        log.info("epoch %.2f, step %d: %s", figures["epoch"], self.step, line)

    def evaluate(self) -> None:
        """Measure the accuracy on the validation split, if there is one, of what was saved last."""
        if self.val_loader is None:
            return
        evaluation = validate(self.average.module, self.val_loader, self.config)
        self.log.write("evaluation", self.step, epoch=self.loader.epoch, **evaluation.figures())
        record_evaluation(self.run_dir, evaluation.figures(), self.ranks, self.config.monitored_figure)
        log.info("after epoch %d: %s", self.loader.epoch, evaluation)

    def save_within_epoch(self) -> bool:
        """Save if it is time to, or if a signal asks to leave, which it returns."""
        every, asked = self.config.train.save_every_steps, self.stop.asked()
        if asked or (every and self.step % every == 0):
            self.save()
        return asked

    def save(self) -> None:
        """Save a checkpoint of this moment, with statistics of BatchNorm that agree over the ranks."""
        for net in dict.fromkeys((self.net, self.average.module)):
            average_buffers(net, self.ranks.world_size)
        if not is_finite(self.net, self.ranks):
            raise DivergedError(f"weights are not finite after step {self.step}")
        info = CheckpointInfo(
            step=self.step,
            epoch=self.loader.epoch,
            classes=self.train_set.manifest.classes,
            packing=self.train_set.manifest.settings,
            train_fingerprint=self.train_set.fingerprint,
            teacher_fingerprint=teacher_fingerprint(self.engine.module),
        )
        save_run(self.run_dir, self.engine, self.loader, self.average, info, self.config, self.ranks)


def count_samples(sample_ids: list[torch.Tensor], num_samples: int) -> torch.Tensor:
    """Return how often each sample occurs in batches of `sample_ids` (B,): (num_samples,) int64, on the CPU.

    count_samples([tensor([2, 0]), tensor([2])], 4)  ->  tensor([1, 0, 2, 0])
    """
    ids = torch.cat(sample_ids).cpu() if sample_ids else torch.empty(0, dtype=torch.int64)
    return torch.bincount(ids, minlength=num_samples)
