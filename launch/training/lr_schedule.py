"""The learning rate as a pure function of the step, so that resuming needs no state of a schedule."""

import math

from launch.training.optimizer_config import ScheduleConfig


def learning_rate_factor(schedule: ScheduleConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return what the learning rate is multiplied by in optimizer step `step`, counted from 0 over the complete run.

    >>> [learning_rate_factor(ScheduleConfig(milestones=(2, 3)), step, 1, 4) for step in range(4)]
    [1.0, 1.0, 0.1, 0.010000000000000002]
    """
    epoch = step / steps_per_epoch
    warmup_steps = schedule.warmup_epochs * steps_per_epoch
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if schedule.name == "step":
        return warmup * schedule.factor ** sum(epoch >= milestone for milestone in schedule.milestones)
    progress = max(0.0, step - warmup_steps) / max(1.0, epochs * steps_per_epoch - warmup_steps)
    return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
