"""How much of a GPU's arithmetic a training uses (model FLOP utilisation), and of its memory."""

import re

import torch

from model import ModelConfig
from model.complexity import measure

# Dense bf16 and fp16 tensor-core FLOP/s by words of the device's name, the first that fit; the makers' figures.
PEAK_FLOPS = {
    "B200": 2250e12,
    "H200 NVL": 835e12,
    "H200": 989.4e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989.4e12,
    "GH200": 989.4e12,
    "A100": 312e12,
    "A800": 312e12,
    "A30": 165e12,
    "A40": 149.7e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
    "4090": 165.2e12,
    "3090": 71e12,
}


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return what the device can do in a second; None where that is not known: CPUs, other GPUs, fp32."""
    if device.type != "cuda" or precision == "fp32":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for words, flops in PEAK_FLOPS.items() if re.search(rf"\b{words}\b", name)), None)


def training_flops(config: ModelConfig, crop_size: int) -> float:
    """Return floating-point operations of training on one clip: two for a multiply-add of convolutions and classifier,
    and three times as many with the backward pass, which computes two products of that size."""
    return 6.0 * measure(config.without_files(), crop_size).multiply_adds


class Utilization:
    """The figures of a device that trains `config` on crops of `crop_size` pixels."""

    def __init__(self, config: ModelConfig, crop_size: int, device: torch.device, precision: str):
        self._device = device
        # What a network that is not ours computes besides convolutions nobody has counted.
        peak = None if config.is_custom else peak_flops(device, precision)
        self._share_of_clip = training_flops(config, crop_size) / peak if peak else None

    def figures(self, clips_per_second: float) -> dict[str, float]:
        """Return the use of this device at so many clips a second, and its peak memory since the last call; {} on a
        CPU."""
        figures = {}
        if self._share_of_clip is not None:
            figures["flop_utilization"] = clips_per_second * self._share_of_clip
        if self._device.type == "cuda":
            figures["peak_memory_bytes"] = torch.cuda.max_memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        return figures
