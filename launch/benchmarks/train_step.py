"""How fast networks train: seconds and memory of complete steps, on random clips that are already on the device."""

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from launch.benchmarks.conv3d_reference import Conv3dReference, build_conv3d_reference
from launch.benchmarks.options import StepOptions
from launch.benchmarks.report import conditions, table
from launch.training.forward import AUTOCAST_DTYPES
from model import ModelConfig, build_model
from sharding.memory import used_memory


@dataclass(frozen=True)
class StepSpeed:
    """Speed of one network."""

    seconds: float
    """Median over the measured steps."""
    spread: float
    """(slowest - fastest) / median of them."""
    clips_per_second: float


def measure_steps(
    nets: Mapping[str, Callable[[], nn.Module]],
    shape: Sequence[int],
    device: torch.device,
    precision: str = "bf16",
    rounds: int = 5,
) -> dict[str, StepSpeed]:
    """Time forward, losses, backward and SGD of several networks, interleaved, so that a busy moment hits all alike.

    Args:
        nets: names and makers of networks with the interface of `model`.
        shape: (B, T, 3, H, W) of the clips.
        rounds: measured steps of each, after two that are not measured.
    """
    times: dict[str, list[float]] = {name: [] for name in nets}
    steps = {name: _stepper(make(), shape, device, precision) for name, make in nets.items()}
    for round_number in range(-2, rounds):
        for name, step in steps.items():
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            began = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_number >= 0:
                times[name].append(time.perf_counter() - began)
    results = {}
    for name, seconds in times.items():
        median = statistics.median(seconds)
        spread = (max(seconds) - min(seconds)) / median
        results[name] = StepSpeed(median, spread, shape[0] / median)
    return results


def measure_step_memory(
    make: Callable[[], nn.Module], shape: Sequence[int], device: torch.device, precision: str = "bf16"
) -> int | None:
    """Return the maximum of bytes that a network, its optimizer and its training steps take at once.

    On a GPU what PyTorch allocates; on the CPU what a separate process grows by, which is known on Linux alone
    (elsewhere None).

    Args:
        make: as for `measure_steps`; on the CPU it is pickled.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        _take_steps(make, shape, device, precision)
        return torch.cuda.max_memory_allocated(device) - before
    if sys.platform != "linux":
        return None
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        return alone.submit(_growth, make, shape, device, precision).result()


def _growth(make: Callable[[], nn.Module], shape: Sequence[int], device: torch.device, precision: str) -> int:
    before = used_memory("VmRSS")
    _take_steps(make, shape, device, precision)
    return used_memory("VmHWM") - before


def _take_steps(make: Callable[[], nn.Module], shape: Sequence[int], device: torch.device, precision: str) -> None:
    step = _stepper(make(), shape, device, precision)
    for _ in range(3):  # from the second on there is momentum too
        step()


def _stepper(net: nn.Module, shape: Sequence[int], device: torch.device, precision: str) -> Callable[[], None]:
    """Return a function that takes one training step, on clips laid out in memory as the network takes them."""
    net = net.to(device).train()
    batch, frames, channels, height, width = shape
    clips = torch.randn(batch, frames, height, width, channels, device=device).permute(0, 1, 4, 2, 3)
    if isinstance(net, Conv3dReference):
        clips = clips.contiguous()
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    dtype = AUTOCAST_DTYPES.get(precision)

    def step() -> None:
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            outputs = net(clips, with_losses=True)
        loss = F.cross_entropy(outputs.logits.float(), labels)
        (loss + 0.01 * outputs.interaction_loss + 0.001 * outputs.capacity_loss).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def step(options: StepOptions) -> None:
    """Print speed and memory of training steps of several architectures."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    configs = {
        arch: ModelConfig(arch=arch, depth=options.depth, num_segments=options.num_segments) for arch in options.archs
    }
    nets: dict[str, Callable[[], nn.Module]] = {arch: partial(build_model, config) for arch, config in configs.items()}
    if options.usual:
        nets |= {
            f"{arch}_usual": partial(build_conv3d_reference, configs[arch])
            for arch in ("tsn", "vpsn")
            if arch in configs
        }
    shape = (options.batch_size, options.num_segments, 3, options.size, options.size)
    peaks = [measure_step_memory(make, shape, device, options.precision) for make in nets.values()]
    speeds = measure_steps(nets, shape, device, options.precision, options.rounds)
    first, first_peak = speeds[options.archs[0]], peaks[0]
    rows = [
        (
            f"{arch}-{options.depth}",
            f"{speed.seconds * 1e3:.0f}",
            f"{speed.spread:.0%}",
            f"{speed.clips_per_second:.2f}",
            f"{speed.seconds / first.seconds:.3f}",
            *(("-", "-") if not peak or not first_peak else (f"{peak / 1e6:.0f}", f"{peak / first_peak:.3f}")),
        )
        for (arch, speed), peak in zip(speeds.items(), peaks)
    ]
    size = f"{options.batch_size} x {options.num_segments} x {options.size} x {options.size}"
    print(f"{size}, {options.precision}, {options.rounds} steps each; {conditions()}")
    base = options.archs[0]
    head = ("", "ms/step", "spread", "clips/s", f"time / {base}", "peak MB", f"memory / {base}")
    print(table(head, rows))
