"""How fast each decode node was on which kind of machine: decode_speeds.json next to the shards, or in the cache."""

import ctypes
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

from pipeline.cores import cores_per_rank
from pipeline.dali_graph import DALI_VERSION
from pipeline.dataset import default_cache_dir
from sharding.dataset import PackedDataset
from sharding.files import replacing

SPEEDS = "decode_speeds.json"


def read_speeds(dataset: PackedDataset, device: torch.device) -> dict[str, float]:
    """Return clips per second of the decode nodes as recorded for such a machine; empty if nothing was."""
    for path in _records(dataset):
        try:
            values = json.loads(path.read_text())[machine_name(device)]
            return {str(node): float(speed) for node, speed in values.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return {}


def write_speeds(dataset: PackedDataset, device: torch.device, speeds: Mapping[str, float]) -> Path:
    """Record what was measured next to the shards, or where that is not possible in the cache; return the file.

    Raises:
        OSError: neither folder can be written.
    """
    problems = []
    for path in _records(dataset):
        try:
            _add(path, machine_name(device), {node: round(speed, 1) for node, speed in speeds.items()})
            return path
        except OSError as error:
            problems.append(error)
    raise problems[0]


def machine_name(device: torch.device) -> str:
    """Return the kind of machine as far as decoding is concerned."""
    cores = f"{cores_per_rank()} cores per rank"
    if device.type != "cuda":
        return f"{cores}, no GPU, DALI {DALI_VERSION}"
    return f"{cores}, {torch.cuda.get_device_name(device)}, driver {driver_version()}, DALI {DALI_VERSION}"


@cache
def driver_version() -> str:
    """Return the version of the NVIDIA driver, or unknown where its management library does not say."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return "unknown"
    text = ctypes.create_string_buffer(96)
    if library.nvmlInit_v2() or library.nvmlSystemGetDriverVersion(text, len(text)):
        return "unknown"
    return text.value.decode()


def _records(dataset: PackedDataset) -> tuple[Path, Path]:
    """Return the files of speeds: with the shards (if remote, in their folder in the cache), else in the cache."""
    in_cache = default_cache_dir() / "decode_speeds" / f"{dataset.fingerprint}.json"
    return dataset.directory / SPEEDS, in_cache


def _add(path: Path, name: str, values: dict[str, float]) -> None:
    """Set one entry of a file of several; what is no such file is replaced. Raises OSError."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    known = (known if isinstance(known, dict) else {}) | {name: values}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(known, indent=1) + "\n")
