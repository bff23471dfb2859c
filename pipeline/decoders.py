"""Which decode node suits a dataset on a device, and what was measured of them."""

import json
import os
from pathlib import Path

import torch

from sharding.dataset import PackedDataset
from sharding.errors import UserError

SPEEDS = "decode_speeds.json"
"""Beside the shards: clips per second of each decode node, by device."""


def choose_decoder(decoder: str, dataset: PackedDataset, device: torch.device) -> str:
    """The decode node that `decoder` means for a dataset on a device.

    Of several that fit, auto takes the one that was measured as the fastest on this device, and unmeasured nvdec.

    Raises:
        UserError: a node that cannot decode what the dataset stores, or nvdec without a GPU.
    """
    fitting = fitting_decoders(dataset, device)
    if decoder == "auto":
        speeds = read_speeds(dataset, device)
        return max(fitting, key=lambda node: speeds.get(node, 0.0))
    if decoder == "nvdec" and device.type != "cuda" and "jpeg" not in fitting:
        raise UserError("data.decoder=nvdec needs a GPU, and this run has none; use data.decoder=pyav")
    if decoder not in fitting:
        stored, nodes = ("JPEGs", "jpeg") if "jpeg" in fitting else ("videos", "pyav or nvdec")
        raise UserError(f"data.decoder={decoder}: {dataset.directory} stores {stored}; use auto or {nodes}")
    return decoder


def fitting_decoders(dataset: PackedDataset, device: torch.device) -> list[str]:
    """The decode nodes that work for what the dataset stores, on this device.

    Raises:
        UserError: it stores both videos and JPEGs.
    """
    stores_jpegs = {suffix == "jpgs" for suffix in dataset.suffixes}
    if len(stores_jpegs) > 1:
        raise UserError(f"{dataset.directory}: stores both videos and JPEGs; pack them as two datasets")
    if stores_jpegs == {True}:
        return ["jpeg"]
    return ["nvdec", "pyav"] if device.type == "cuda" else ["pyav"]


def read_speeds(dataset: PackedDataset, device: torch.device) -> dict[str, float]:
    """Clips per second of the decode nodes measured on such a device; empty if nothing was."""
    try:
        values = json.loads((dataset.directory / SPEEDS).read_text())[device_name(device)]
        return {str(node): float(speed) for node, speed in values.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_speeds(dataset: PackedDataset, device: torch.device, speeds: dict[str, float]) -> Path:
    """Records what was measured. Raises OSError where the folder cannot be written."""
    path = dataset.directory / SPEEDS
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    known[device_name(device)] = {node: round(speed, 1) for node, speed in speeds.items()}
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(known, indent=1) + "\n")
    temporary.replace(path)
    return path


def device_name(device: torch.device) -> str:
    """The kind of machine as far as decoding is concerned."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    return f"{os.cpu_count()} cores, {gpu}"
