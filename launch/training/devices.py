"""Whether this machine has got what training asks for."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from launch.training.config import Config
from sharding.errors import UserError


def check_device(config: Config) -> None:
    """Raise UserError if this machine has not got what `config.train` needs, before anything is begun."""
    train = config.train
    if not torch.cuda.is_available():
        if train.require_gpu:
            raise UserError("train.require_gpu=true, but this machine has no GPU that torch can use; use false")
        if train.precision == "fp16":
            raise UserError("train.precision=fp16 needs a GPU, and this run has none; use bf16 or fp32")
        if train.sync_batch_norm:
            raise UserError("train.sync_batch_norm=true needs GPUs, and this run has none; use false")
    elif train.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(f"train.precision=bf16: {torch.cuda.get_device_name()} has no bf16; use fp16 or fp32")


def unusable_gpu(devices: Path = Path("/dev")) -> str | None:
    """Return a warning if this machine has an NVIDIA GPU that nobody hid and torch cannot use; else None."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if torch.cuda.is_available() or hidden or not any(devices.glob("nvidia[0-9]*")):
        return None
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return (
        f"this machine has a GPU that torch {torch.__version__}, built {built}, cannot use; training on the CPU. "
        "Its driver may be too old: nvidia-smi shows for which CUDA it is"
    )


def choose_gpu(num_gpus: int, environment: Mapping[str, str]) -> int:
    """Return the number, among those that this process sees, of the GPU of this rank.

    Raises:
        UserError: it sees fewer than its machine has ranks.
    """
    local_rank = int(environment["LOCAL_RANK"])
    if num_gpus == 1 and "CUDA_VISIBLE_DEVICES" in environment:  # srun --gpus-per-task=1 shows each rank its own
        return 0
    if local_rank >= num_gpus:
        raise UserError(
            f"LOCAL_RANK={local_rank}: this machine has {num_gpus} GPU(s); start as many ranks on it, or show each "
            "rank one with CUDA_VISIBLE_DEVICES"
        )
    return local_rank
