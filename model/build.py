"""From a ModelConfig to a network."""

import torch
from torch import nn

from model.config import ModelConfig
from model.resnet import VideoResNet
from model.synthesizer import Synthesizer
from model.weights import load_pretrained


def build_model(config: ModelConfig) -> nn.Module:
    """The network `config` describes, channels-last, in training mode, on the CPU.

    It maps clips (B, T, 3, H, W) to logits (B, num_classes). With `config.pretrained` weights are read here; to load a
    checkpoint of the whole network afterwards, build it with `dataclasses.replace(config, pretrained=None)`.

    >>> net = build_model(ModelConfig(arch="vpsn", depth=18, num_classes=8, num_segments=4))
    >>> net(torch.zeros(2, 4, 3, 64, 64)).shape
    torch.Size([2, 8])

    Raises:
        ValueError: an impossible configuration, or weights that cannot be had or do not fit.
    """
    net = VideoResNet(config.depth, config.num_classes, config.num_segments, config.dropout)
    if config.arch == "vpsn":
        _add_synthesizers(net, config)
    if config.pretrained is not None:
        load_pretrained(net, config.pretrained, config.depth)
    return net.to(memory_format=torch.channels_last)


def _add_synthesizers(net: VideoResNet, config: ModelConfig) -> None:
    scale = config.synthesizer.expand_init_scale
    if scale is None:
        scale = 1.0 if config.pretrained is None else 0.01
    for stage in config.synthesizer.stages:
        synthesizer = Synthesizer(net.stage_channels[stage], config.num_segments, config.synthesizer)
        with torch.no_grad():
            synthesizer.expand.weight.mul_(scale)
        net.synthesizers[stage] = synthesizer
