"""The mean of the weights of several checkpoints as a checkpoint: what `launch/average.py` does.

Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization (2018): the mean of weights along one
training generalises better than their last. The statistics of BatchNorm are those of activations, which the mean of the
weights changes, so they are estimated again from training clips (Section 3.2 there).
"""

import itertools
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from launch.inference.comparison import name_checkpoints
from launch.training.batch_norm import NORMALISE_CLIPS, held_norms
from launch.training.checkpoint import CheckpointInfo, load_checkpoint, write_checkpoint
from launch.training.config import Config
from launch.training.forward import compute_logits
from model import Network
from pipeline.dataset import open_dataset
from pipeline.loader import VideoBatch, VideoLoader
from sharding.errors import UserError
from sharding.files import new_folder


@dataclass(frozen=True)
class BatchNormOptions:
    """Where the statistics of BatchNorm come from."""

    num_batches: int = 100
    """Batches of training clips that they are estimated from; 0 takes the mean of the checkpoints' own."""
    batch_size: int = 16
    """Clips in a batch."""
    data: str | None = None
    """Folder or URL of the packed training split; by default that of the checkpoints' configuration."""


def average_checkpoints(paths: Sequence[Path], out: Path, options: BatchNormOptions) -> None:
    """Write the mean of checkpoints of one network as a checkpoint, the folder `out`, and print what was done.

    Raises:
        UserError: fewer than two checkpoints, ones of different networks or classes, no training clips, or something
            else is in `out`.
    """
    named = name_checkpoints(paths)
    if len(named) < 2:
        raise UserError("an average takes two different checkpoints or more, such as RUN/checkpoints/step-*")
    loaded = [load_checkpoint(folder) for folder in named]
    net, info, config = max(loaded, key=lambda each: each[1].step)
    for name, (_, other_info, other) in zip(named.values(), loaded):
        if other.model.without_files() != config.model.without_files() or other_info.classes != info.classes:
            raise UserError(f"{name}: of another network or other classes than the others; average those of one run")
    with new_folder(out) as folder:
        states = [each.state_dict() for each, _, _ in loaded]
        net.load_state_dict(mean_tensors(states))
        held = {*held_norms(net, config.train.batch_norm), *_unchanged_norms(net, states)}
        statistics = _estimate(net, info, config, options, held) if options.num_batches else "the mean of theirs"
        write_checkpoint(folder, net, replace(info, metrics={}), config)
    print(f"{out}: the mean of {len(named)} checkpoints: {', '.join(named.values())}; BatchNorm: {statistics}")


def mean_tensors(states: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the mean of each floating tensor, computed in float64; of others, such as counters, the last one's."""
    mean = {}
    for name, last in states[-1].items():
        if last.is_floating_point():
            mean[name] = torch.stack([state[name].double() for state in states]).mean(0).to(last.dtype)
        else:
            mean[name] = last
    return mean


def estimate_batch_norm(
    net: nn.Module, batches: Iterator[torch.Tensor], precision: str, held: Collection[nn.Module] = ()
) -> None:
    """Set the statistics of BatchNorm to the mean of those of batches (B, T, 3, H, W), all of which count alike. Leaves
    the network in evaluation mode.

    Args:
        held: BatchNorm layers that keep theirs.
    """
    kept = set(held)
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm) and module not in kept]
    momenta = [norm.momentum for norm in norms]
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
        norm.train()
    for clips in batches:
        compute_logits(net, clips, precision)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    net.eval()


def _unchanged_norms(net: nn.Module, states: Sequence[dict[str, torch.Tensor]]) -> list[nn.Module]:
    """Return the BatchNorm layers with the same statistics in all states, since training held them: those of frozen
    stages and pathways."""
    norms = ((name, module) for name, module in net.named_modules() if isinstance(module, _BatchNorm))
    return [
        norm
        for name, norm in norms
        if all(
            torch.equal(states[0][f"{name}.{figure}"], state[f"{name}.{figure}"])
            for state in states[1:]
            for figure in ("running_mean", "running_var")
        )
    ]


def _estimate(
    net: Network, info: CheckpointInfo, config: Config, options: BatchNormOptions, held: Collection[nn.Module]
) -> str:
    """Estimate the statistics from training clips, but of layers that are `held`; return in words what from."""
    location = options.data or config.data.train
    if location is None:
        raise UserError("--data: the checkpoints name no training split; give its folder, or --bn-batches 0")
    dataset = open_dataset(location, config.data.cache_dir, config.data.cache_bytes)
    batch_size = max(1, min(options.batch_size, len(dataset.kept)))
    if batch_size == 1 and config.model.head in NORMALISE_CLIPS:
        raise UserError(f"--batch-size 1: model.head={config.model.head} has BatchNorm over clips; use 2 or more")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net.to(device)
    loader = VideoLoader(
        dataset,
        config.data,
        training=True,
        micro_batch_size=batch_size,
        seed=config.train.seed,
        device=device,
    )
    with closing(loader):
        batches = itertools.islice(_endless(loader), options.num_batches)
        batches = tqdm(batches, "BatchNorm", options.num_batches, unit="batch", disable=not sys.stderr.isatty())
        estimate_batch_norm(net, (batch.clips for batch in batches), config.train.precision, held)
    clips = options.num_batches * loader.micro_batch_size
    other = "" if dataset.fingerprint == info.train_fingerprint else ", which is not the data they were trained on"
    return f"estimated from {clips} clips of {dataset.location}{other}"


def _endless(loader: VideoLoader) -> Iterator[VideoBatch]:
    while True:
        yield from loader
