"""The parts of the GPU check: each is run in its own process, and returns what goes into the report."""

import os
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from launch.benchmarks.conv3d_reference import build_conv3d_reference
from launch.benchmarks.loader_stages import measure_loader, measure_stages
from launch.benchmarks.options import ROOT
from launch.benchmarks.sampler_scale import write_large_dataset
from launch.benchmarks.train_step import measure_step_memory, measure_steps
from launch.inference.pack_files import list_videos
from launch.training.run_log import read_metrics
from model import ModelConfig, build_model
from model.config import Depth
from pipeline.config import DataConfig, Decoder
from pipeline.cores import cores_per_rank
from pipeline.decode_speeds import driver_version
from pipeline.loader import VideoLoader
from pipeline.nvdec_probe import probe_nvdec
from sharding.dataset import PackedDataset, load_dataset


@dataclass(frozen=True)
class Check:
    """What the parts of a GPU check share."""

    work: Path
    """Folder for what they make."""
    videos: Path
    """Class folders with a few videos."""
    num_videos: int = 96
    """Samples to pack; the videos come again as often as needed."""
    batch_size: int = 64
    seconds: float = 4.0
    """How long a loader is measured."""
    depth: Depth = 50
    """Layers of the networks that are measured."""
    num_steps: int = 200
    """Steps of a training."""

    def dataset(self, name: str) -> PackedDataset:
        return load_dataset(self.work / name / "train")


def device_of() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine(check: Check) -> dict:
    """Describe GPU, driver, cores, and whether NVDEC works or why not."""
    found = {"cpus": os.cpu_count(), "cores_per_rank": cores_per_rank(), "torch": torch.__version__}
    found["capabilities"] = os.environ.get("NVIDIA_DRIVER_CAPABILITIES")
    if not torch.cuda.is_available():
        return found
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        torch.mm(a, a)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(10):
        torch.mm(a, a)
    torch.cuda.synchronize()
    found["bf16_tflops"] = round(10 * 2 * 8192**3 / (time.perf_counter() - began) / 1e12)
    return found | {"gpu": torch.cuda.get_device_name(), "driver": driver_version(), "nvdec": asdict(probe_nvdec(0))}


def pack(check: Check) -> dict:
    """Pack the videos under the profiles that are measured."""
    sources = list_videos(check.videos)
    for number in range(check.num_videos):
        source = sources[number % len(sources)]
        folder = check.work / "videos" / source.parent.name.replace(" ", "_")
        link = folder / f"{source.stem}_{number:03d}{source.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source.resolve())
    found = {}
    for profile in ("h264", "jpeg"):
        began = time.perf_counter()
        command = [sys.executable, "-m", "sharding", "pack", "--dataset=folder", "--split=train"]
        command += [f"--profile={profile}", f"--videos={check.work / 'videos'}", f"--out={check.work / profile}"]
        run(command)
        dataset = check.dataset(profile)
        sizes = sorted({(int(w), int(h)) for w, h in zip(dataset.widths, dataset.heights)})
        found[profile] = {
            "seconds": round(time.perf_counter() - began, 1),
            "sizes": sizes,
            "kilobytes": round(dataset.manifest.bytes / len(dataset) / 1e3),
        }
    return found


def feed(check: Check, name: str, decoder: Decoder, num_segments: int) -> dict:
    """Measure clips/s of the training loader, its processors' time, and GPU memory that is not torch's."""
    device, before, times = device_of(), _foreign_memory(), os.times()
    config = DataConfig(num_segments=num_segments, decoder=decoder)
    speed = measure_loader(check.dataset(name), config, check.batch_size, check.seconds, device)
    spent = sum(os.times()[:4]) - sum(times[:4])  # with that of the workers, which have ended
    return {
        "clips_per_second": round(speed.clips_per_second, 1),
        "cpu_seconds": round(spent, 1),
        "gpu_memory_not_torch": _foreign_memory() - before,
    }


def stages(check: Check, name: str, decoder: Decoder) -> dict:
    """Measure clips/s of each step of the loader alone."""
    config = DataConfig(num_segments=8)
    found = measure_stages(check.dataset(name), config, decoder, check.batch_size, 2.0, device_of())
    return {stage.name: round(stage.clips_per_second, 1) for stage in found}


def handover(check: Check, name: str, decoder: Decoder) -> dict:
    """Return whether a batch is overwritten that torch still has to read: sums read late against sums read at once."""
    device = device_of()

    def sums(late: bool) -> list[float]:
        options = {"training": True, "micro_batch_size": min(16, check.num_videos), "device": device}
        found = []
        with VideoLoader(check.dataset(name), DataConfig(decoder=decoder), **options) as loader:
            for _ in range(2):
                for batch in loader:
                    if late and device.type == "cuda":
                        torch.cuda._sleep(int(0.15 * 1.7e9))
                    found.append(batch.clips.double().sum())
                    del batch
        return [value.item() for value in found]

    at_once, late = sums(False), sums(True)
    return {"batches": len(late), "overwritten": sum(one != other for one, other in zip(at_once, late))}


def steps(check: Check, num_segments: int, batch: int) -> dict:
    """Measure milliseconds and memory of training steps: VPSN and TSN, and both written with Conv3d on volumes."""
    device, shape = device_of(), (batch, num_segments, 3, 224, 224)
    nets: dict[str, Callable[[], nn.Module]] = {}
    for arch in ("tsn", "vpsn"):
        config = ModelConfig(arch=arch, depth=check.depth, num_segments=num_segments)
        nets |= {arch: partial(build_model, config), f"{arch}_conv3d": partial(build_conv3d_reference, config)}
    found: dict[str, dict[str, float | None]] = {
        name: {
            "milliseconds": round(1e3 * speed.seconds, 1),
            "clips_per_second": round(speed.clips_per_second, 1),
            "spread": round(speed.spread, 2),
        }
        for name, speed in measure_steps(nets, shape, device, "bf16", 8).items()
    }
    for name in ("vpsn", "vpsn_conv3d"):
        found[name]["bytes"] = measure_step_memory(nets[name], shape, device)
    return found | {"batch": batch}


def train(check: Check, name: str, decoder: Decoder, *options: str) -> dict:
    """Train real steps with launch/train.py: clips/s, and the fraction of time in which the GPU waits for data."""
    large = check.work / f"large_{name}"
    if not large.exists():
        write_large_dataset(check.work / name / "train", large, check.batch_size * check.num_steps)
    run_dir = check.work / f"run_{name}_{decoder}_{len(options)}"
    command = [sys.executable, "launch/train.py", f"--data.train={large}", f"--data.decoder={decoder}"]
    command += [f"--run_dir={run_dir}", f"--model.depth={check.depth}", f"--train.batch_size={check.batch_size}"]
    command += ["--train.epochs=1", "--train.log_every_steps=20", "--schedule.milestones=[]", *options]
    began = time.perf_counter()
    run(command)
    lines = [line for line in read_metrics(run_dir) if line["kind"] == "train"]
    kept = lines[2:] or lines  # the first ones hold the start
    names = ("clips_per_second", "loading_share", "flop_utilization", "peak_memory_bytes")
    figures = {name: round(sum(line[name] for line in kept) / len(kept), 4) for name in names if name in kept[0]}
    seconds = round(time.perf_counter() - began, 1)
    return figures | {
        "steps": lines[-1]["step"],
        "losses": [round(line["loss"], 3) for line in lines],
        "seconds": seconds,
    }


def waits(check: Check, name: str, decoder: Decoder) -> dict:
    """Find where training steps wait for the GPU, with how often, by torch.cuda.set_sync_debug_mode."""
    from launch.training.config_parser import parse_config
    from launch.training.supervise import train_run
    from launch.training.trainer import Trainer

    large, batch = check.work / "large_waits", min(16, check.batch_size)
    if not large.exists():
        write_large_dataset(check.work / name / "train", large, batch * min(12, check.num_steps))
    places: Counter[str] = Counter()
    train_step, count = Trainer.train_step, 0

    def watched(self, batch):
        nonlocal count
        count += 1
        if count == 3 and torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("warn")
        return train_step(self, batch)

    def show(message, category, filename, lineno, *_):
        if "synchroniz" in str(message):
            ours = [frame for frame in traceback.extract_stack() if "torch/" not in frame.filename]
            ours = [frame for frame in ours if Path(frame.filename).name not in ("warnings.py", Path(__file__).name)]
            places[f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].line}"] += 1

    warnings.simplefilter("always")
    warnings.showwarning = show
    Trainer.train_step = watched
    options = [f"--data.train={large}", f"--data.decoder={decoder}", f"--run_dir={check.work / 'run_waits'}"]
    options += ["--model.depth=18", f"--train.batch_size={batch}", "--train.epochs=1", "--train.log_every_steps=100"]
    code = train_run(parse_config("launch/benchmark.py", [*options, "--schedule.milestones=[]"]))
    return {"exit_code": code, "steps": count, "places": dict(places.most_common(20))}


def tests(check: Check) -> dict:
    """Run tests/gpu, which must not be skipped here."""
    command = [sys.executable, "-m", "pytest", "-v", "--maxfail=30", "-p", "no:cacheprovider", "--tb=line", "tests/gpu"]
    environment = os.environ | {"FAIL_WITHOUT_GPU": "1"}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    lines = []
    with subprocess.Popen(command, cwd=ROOT, env=environment, **output) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)  # into the log, which is kept where the time runs out
            lines.append(line)
    return {"exit_code": process.returncode, "output": "".join(lines)[-7500:]}


def run(command: list[str]) -> None:
    """Run a command in the project's root. Raises RuntimeError with the end of what it printed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[1:4]}: {(done.stdout + done.stderr)[-3000:]}")


def _foreign_memory() -> int:
    """Return bytes in use on the GPU that are not torch's: DALI's, NVDEC's, contexts'."""
    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()
