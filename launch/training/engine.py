"""DeepSpeed behind a small surface; the one module that imports it: start ranks, build the engine, save and load."""

import errno
import hashlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from launch.training.batch_norm import check_micro_batch
from launch.training.clipping import clip_gradients
from launch.training.distributed import (
    Ranks,
    _host_group,
    any_rank,
    barrier,
    free_port,
    set_time_limit,
    sum_over_ranks,
)
from launch.training.optimizers import build_optimizer, parameter_groups
from launch.training.versions import version_of

# DeepSpeed builds its communication kernels at first use and finds the build tools of this environment on the PATH.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

# They are kept for each environment by itself, or two that alternate would build again each time.
os.environ.setdefault(
    "TORCH_EXTENSIONS_DIR",
    str(
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "torch_extensions"
        / ("vpsn-" + hashlib.sha256(f"{sys.prefix} {version_of('torch')}".encode()).hexdigest()[:12])
    ),
)

import numpy as np
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # said, it is not guessed with a warning
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of CUDA without a GPU

import deepspeed
import torch.distributed as dist
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.config_utils import DeepSpeedConfigModel
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from pydantic import ValidationError
from torch import nn

from launch.training.config import Config
from launch.training.devices import choose_gpu
from launch.training.forward import AUTOCAST_DTYPES
from launch.training.host_memory import keep_freed_memory
from launch.training.launcher import ErrorOfAllRanks
from launch.training.loss_scale import LossScale
from launch.training.mixup import check_mixing
from launch.training.rank_environment import adopt_launcher
from launch.training.raw_options import ConsultedDict, check_said_elsewhere, unknown_key
from launch.training.safe_load import load_plain
from model.resnet import to_channels_last
from pipeline.cores import cores_per_rank
from sharding.errors import UserError

Engine = deepspeed.DeepSpeedEngine

# DeepSpeed's own plain objects in its checkpoints: an enumeration, a pair of numbers, and numbers with methods.
_PLAIN_TYPES = (ZeroStageEnum, fragment_address, LossScaler, DynamicLossScaler)

logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


def start_ranks(timeout_seconds: float = 600.0) -> Ranks:
    """Join the process group that the launcher describes in the environment; alone if there is no launcher.

    Args:
        timeout_seconds: limit on every collective operation.

    Raises:
        UserError: this machine has too few GPUs for its ranks, or another program listens on MASTER_PORT.
    """
    adopt_launcher()
    if "RANK" not in os.environ:
        port = str(free_port())
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    if torch.cuda.is_available():
        device = torch.device("cuda", choose_gpu(torch.cuda.device_count(), os.environ))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        keep_freed_memory()
        if "OMP_NUM_THREADS" not in os.environ:  # ranks on one machine share its cores
            torch.set_num_threads(cores_per_rank())
    if not dist.is_initialized():
        if device.type == "cpu" and not any(Path(os.environ["TORCH_EXTENSIONS_DIR"]).rglob("*.so")):
            print("building DeepSpeed's communication kernel for this environment: once, about a minute", flush=True)
        _join("nccl" if device.type == "cuda" else "gloo", timedelta(seconds=timeout_seconds))
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


@contextmanager
def _gpu_as_local_rank(device: torch.device) -> Iterator[None]:
    """Give LOCAL_RANK the number of this rank's GPU, which DeepSpeed takes from there."""
    names = [name for name in ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK") if name in os.environ]
    before = {name: os.environ[name] for name in names}
    if device.type == "cuda":
        os.environ.update(dict.fromkeys(names, str(device.index)))
    try:
        yield
    finally:
        os.environ.update(before)


def stop_ranks() -> None:
    """Leave the process group."""
    _host_group.cache_clear()
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def joined_ranks(timeout_seconds: float = 600.0) -> Iterator[Ranks]:
    """Join the process group as `start_ranks` does, and leave it whatever happens. Raises what it raises.

    A UserError within that perhaps only this rank has met is said by it, whoever it is: `errors_once` lets only the
    first process of a machine say what all of them meet.
    """
    ranks = start_ranks(timeout_seconds)
    try:
        yield ranks
    except UserError as error:
        if not ranks.is_main_process and not isinstance(error, ErrorOfAllRanks):
            # Before the others notice that it is gone.
            print(f"rank {ranks.rank}: {error}", file=sys.stderr, flush=True)
        raise
    finally:
        stop_ranks()


def _join(backend: str, timeout: timedelta) -> None:
    set_time_limit(timeout)
    try:
        with redirect_stdout(io.StringIO()):  # it prints at every start, on each rank
            deepspeed.init_distributed(backend, timeout=timeout, verbose=False)
    except dist.DistNetworkError as error:
        if errno.errorcode[errno.EADDRINUSE] not in str(error):
            raise
        port = os.environ["MASTER_PORT"]
        raise UserError(
            f"MASTER_PORT={port} is in use on this machine, by another run perhaps; choose another, as with "
            f"deepspeed --master_port={int(port) + 1}"
        ) from error
    _host_group()
    # DeepSpeed's all-reduce between the processes of a machine keeps its memory in files of 69 MB that nobody removes.
    # Once all have opened them they need no names.
    barrier()
    for path in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_{os.getuid()}_*_{os.environ['MASTER_PORT']}_*"):
        path.unlink(missing_ok=True)


def deepspeed_options(config: Config, world_size: int) -> dict:
    """Return DeepSpeed's configuration dictionary, derived from ours.

    Raises:
        UserError: the batch cannot be shared, or `config.deepspeed` contradicts another section.
    """
    train = config.train
    share = max(1, train.batch_size // world_size)
    micro_batch_size = train.micro_batch_size or share
    if train.batch_size % (world_size * micro_batch_size):
        raise UserError(
            f"train.batch_size={train.batch_size} is not a multiple of {world_size} rank(s) times "
            f"train.micro_batch_size={micro_batch_size}; change one of them"
        )
    check_micro_batch(config, micro_batch_size, world_size)
    check_mixing(train, micro_batch_size)
    derived = {
        "train_batch_size": train.batch_size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": share // micro_batch_size,
        "gradient_clipping": config.optimizer.clip_norm,
        "zero_optimization": {"stage": train.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": sys.maxsize,
    }
    if train.precision in AUTOCAST_DTYPES:
        dtype = str(AUTOCAST_DTYPES[train.precision]).removeprefix("torch.")
        derived["torch_autocast"] = {"enabled": True, "dtype": dtype}
    check_said_elsewhere(config.deepspeed, derived)
    _check_known(config.deepspeed, train.zero_stage)
    # By default DeepSpeed waits for the device twice a step, to time it.
    return _merge(_merge(derived, {"timers": {"throughput": {"enabled": False}}}), config.deepspeed)


def _check_known(raw: dict, zero_stage: int) -> None:
    """Raise UserError if the raw section has a key that DeepSpeed never reads, or a value that it refuses."""
    minimal = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": zero_stage}}
    consulted = ConsultedDict(_merge(raw | {"train_batch_size": None, "gradient_accumulation_steps": None}, minimal))
    try:
        DeepSpeedConfig(consulted)
    except ValidationError as error:
        first = error.errors()[0]
        *_, key = first["loc"] or ("",)
        section = consulted.find(str(first["loc"][0])) if first["loc"] else consulted
        if first["type"] == "extra_forbidden":
            raise unknown_key(section.path, str(key), _fields(error.title)) from error
        raise UserError(f"{section.path}.{key}={first['input']!r}: {first['msg']}") from error
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"deepspeed: DeepSpeed refuses it: {' '.join(str(error).split())}") from error
    consulted.check_all_consulted()


def _fields(model: str) -> set[str]:
    """Return the names of the fields of DeepSpeed's configuration model of this name."""
    kinds = DeepSpeedConfigModel.__subclasses__()
    return {name for kind in kinds if kind.__name__ == model for name in kind.model_fields}


def build_engine(config: Config, net: nn.Module, options: dict, ranks: Ranks) -> Engine:
    """Return the DeepSpeed engine around `net`, its optimizer over `parameter_groups`; `options` are
    `deepspeed_options`."""
    learning_rate = config.optimizer.scaled_learning_rate(config.train.batch_size)
    optimizer = build_optimizer(config.optimizer, parameter_groups(net, config.optimizer), learning_rate)
    # DeepSpeed shares parameters as flat memory and refuses channels-last ones; ZeRO 1 and 2 keep them flat for good.
    # The network's feature maps are channels-last all the same, and each convolution then lays its kernel out alike.
    net.to(ranks.device).to(memory_format=torch.contiguous_format)
    engine: Any  # what is replaced below is not declared
    with _gpu_as_local_rank(ranks.device):
        engine, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=options)
    engine.checkpoint_engine = PlainCheckpoints(engine.checkpoint_engine)
    if config.train.zero_stage == 0:
        to_channels_last(net)
        engine.clip_fp32_gradients = partial(
            clip_gradients, list(net.parameters()), config.optimizer.clip_norm, ranks.world_size
        )
    else:
        engine.optimizer.torch_autocast_gradscaler = None
        if config.train.precision == "fp16":
            engine.optimizer.loss_scaler = LossScale()
    if config.train.compile:
        engine.compile()
    return engine


def set_learning_rate(engine: Engine, learning_rate: float) -> None:
    """Set the learning rate of the next optimizer step, times each group's own factor."""
    optimizer: Any = engine.optimizer  # torch's, or DeepSpeed's around it
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["learning_rate_factor"]


def note_loss(engine: Engine, loss: torch.Tensor, steps_per_epoch: int) -> None:
    """Pass the loss of a forward pass, its mean over the ranks, to an optimizer whose steps depend on it."""
    note = getattr(engine.basic_optimizer, "note_loss", None)
    if note is not None:
        mean = sum_over_ranks(loss.detach().to(torch.float64, copy=True)) / dist.get_world_size()
        note(mean, *divmod(engine.global_steps, steps_per_epoch))


def seed_step(engine: Engine, seed: int, rank: int) -> None:
    """Seed dropout by (seed, step, micro-batch, rank), so that a resumed run drops what an undisturbed one would."""
    micro_batch = engine.micro_steps % engine.gradient_accumulation_steps()
    entropy = np.random.SeedSequence([seed, engine.global_steps, micro_batch, rank])
    torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0]))


def average_buffers(net: nn.Module, world_size: int) -> None:
    """Make BatchNorm's running statistics the mean over the ranks, so that all evaluate and save the same network."""
    if world_size == 1:
        return
    for buffer in net.buffers():
        if buffer.is_floating_point():
            sum_over_ranks(buffer).div_(world_size)


def is_finite(net: nn.Module, ranks: Ranks) -> bool:
    """Return whether all weights and buffers are numbers, on all ranks; waits for the device."""
    tensors = [value for value in net.state_dict().values() if value.is_floating_point()]
    return not any_rank(not torch.stack([value.isfinite().all() for value in tensors]).all(), ranks)


class PlainCheckpoints(TorchCheckpointEngine):
    """How the engine writes and reads the files of a checkpoint: loading one runs no code, whoever made it.

    An error of writing is kept until all ranks have passed DeepSpeed's barriers: `raise_error` raises it.
    """

    def __init__(self, default: TorchCheckpointEngine):
        self.name, self.zipfile_serialization = default.name, default.zipfile_serialization
        self._error: Exception | None = None

    def save(self, state_dict: dict, path: str) -> None:
        # Of our own loss scaler only the numbers are kept, by `save_engine`.
        zero = state_dict.get("optimizer_state_dict")
        if isinstance(zero, dict):
            kept = {key: value for key, value in zero.items() if key != "loss_scaler"}
            state_dict = state_dict | {"optimizer_state_dict": kept}
        try:
            with Path(path).open("wb") as file:  # torch's own writer would hide what the system said
                torch.save(state_dict, file)
        except (OSError, RuntimeError) as error:
            self._error = error

    def load(self, path: str, map_location=None) -> dict:
        return load_plain(path, _PLAIN_TYPES, map_location)

    def raise_error(self) -> None:
        """Raise what went wrong in `save`, if anything did."""
        error, self._error = self._error, None
        if error is not None:
            raise error


def _loss_scale(engine: Engine):
    """Return what scales the loss of fp16 training; None in other precisions."""
    scaler = engine.torch_autocast_z0_gradscaler or getattr(engine.optimizer, "loss_scaler", None)
    return scaler if isinstance(scaler, (torch.amp.GradScaler, LossScale)) else None


def save_engine(engine: Engine, folder: Path, name: str, state: dict) -> None:
    """Write parameters, buffers and optimizer to folder/name, called on all ranks; `state` is kept with them.

    Raises:
        OSError, RuntimeError: it cannot be written, on this rank.
    """
    scaler = _loss_scale(engine)  # DeepSpeed leaves it out
    state = state | {"loss_scale": scaler.state_dict() if scaler else None}
    engine.save_checkpoint(str(folder), tag=name, client_state=state, save_latest=False)
    assert isinstance(engine.checkpoint_engine, PlainCheckpoints)  # `build_engine` set it
    engine.checkpoint_engine.raise_error()


def load_engine(engine: Engine, folder: Path, name: str) -> dict:
    """Load what `save_engine` wrote, on all ranks, and return its `state`.

    Raises:
        UserError: there is nothing, it is damaged, or it holds more than tensors and plain values.
    """
    scaler = _loss_scale(engine)
    path, state = engine.load_checkpoint(str(folder), tag=name)
    if path is None or state is None:
        raise UserError(f"{folder / name}: DeepSpeed finds no checkpoint there")
    if isinstance(scaler, LossScale):
        optimizer: Any = engine.optimizer
        optimizer.loss_scaler = scaler  # checkpoints of versions before 0.2 hold one of DeepSpeed's
    if scaler is not None and state.get("loss_scale"):
        scaler.load_state_dict(state["loss_scale"])
    return state


def _merge(options: dict, added: dict) -> dict:
    """Return the options with those added, section by section; of two values the added one."""
    merged = dict(options)
    for key, value in added.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
