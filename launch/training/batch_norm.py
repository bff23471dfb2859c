"""What BatchNorm does in training: learn, hold still, or count the clips of all ranks."""

from typing import TypeVar

from torch import nn

from launch.training.config import Config, TrainConfig
from sharding.errors import UserError

Net = TypeVar("Net", bound=nn.Module)
NORMALISE_CLIPS = ("ts_lstm", "temporal_inception")  # heads with BatchNorm of one vector for each clip


def prepare_batch_norm(net: Net, config: TrainConfig) -> Net:
    """Return `net` with the BatchNorm that `config` asks for; before its parameters go to an optimizer."""
    for norm in held_norms(net, config.batch_norm):
        norm.requires_grad_(False)
    if config.sync_batch_norm:
        nn.SyncBatchNorm.convert_sync_batchnorm(net)  # in place
    return net


def check_micro_batch(config: Config, micro_batch_size: int, world_size: int) -> None:
    """Raise UserError if a BatchNorm of the head would have a single vector to take its statistics from."""
    head, train = config.model.head, config.train
    together = micro_batch_size * (world_size if train.sync_batch_norm else 1)
    if head in NORMALISE_CLIPS and together == 1 and train.batch_norm == "train" and not config.model.linear_probe:
        raise UserError(
            f"train.micro_batch_size={micro_batch_size}: model.head={head} has BatchNorm over the clips of a "
            "micro-batch; use 2 or more, or train.batch_norm=partial"
        )


def set_training_mode(net: nn.Module, config: TrainConfig) -> None:
    """Set training mode, but for the BatchNorm layers that `config` holds still and all modules that are frozen."""
    net.train()
    for norm in held_norms(net, config.batch_norm):
        norm.eval()
    for module in net.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def held_norms(net: nn.Module, mode: str) -> list[nn.Module]:
    """Return the BatchNorm layers that keep their statistics, scale and shift under train.batch_norm=`mode`."""
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return {"train": [], "partial": norms[1:], "frozen": norms}[mode]
