"""From a ModelConfig to a network: the register of architectures."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from model import am_mup, custom
from model.architectures import dg_p3d, gst, p3d, receptive_field, slowonly, stm, tea, tsm
from model.config import ModelConfig
from model.drop_path import check_drop_path, with_drop_path
from model.freeze import freeze
from model.heads.encoder import CrossEncoderResNet, EncoderResNet
from model.heads.hierarchy import IntegrationNet, PathwayNet
from model.heads.recurrent import LSTMResNet, TSLSTMResNet
from model.heads.temporal_inception import TemporalInceptionResNet
from model.pretrained import load_pretrained
from model.resnet import Block, BlockSpec, VideoResNet, to_channels_last
from model.resnet_rs import replace_stem, with_resnet_rs
from model.synthesizer import Synthesizer

# What an architecture's residual blocks are, where not those of the plain ResNet: (place, depth) -> block.
BLOCKS: dict[str, Callable[[BlockSpec, int], Block]] = {
    "tsm": tsm.block,
    "gst": gst.block,
    "stm": lambda place, depth: stm.STMBottleneck(place),
    "tea": lambda place, depth: tea.TEABottleneck(place),
    "p3d": lambda place, depth: p3d.block(place, "ABC"),
    "p3d_a": lambda place, depth: p3d.block(place, "A"),
    "p3d_b": lambda place, depth: p3d.block(place, "B"),
    "p3d_c": lambda place, depth: p3d.block(place, "C"),
    "slowonly": slowonly.block,
    "dg_p3d": dg_p3d.block,
}

# The network around the blocks, where it is another than the plain one: as VideoResNet.
NETWORKS: dict[str, Callable[..., VideoResNet]] = {"dg_p3d": dg_p3d.DGP3D, "slowonly": slowonly.SlowOnly}

# What follows the stages of model.synthesizer.placement: (channels, num_segments, model.synthesizer) -> module.
Inserted = Synthesizer | receptive_field.DensePairs | receptive_field.TemporalInception
INSERTED: dict[str, Callable[..., Inserted]] = {
    "vpsn": Synthesizer,
    "rf_s": partial(receptive_field.DensePairs, num_pairs=1),
    "rf_l": partial(receptive_field.DensePairs, num_pairs=2),
    "rf_l_inception": receptive_field.build_inception,
    "rf_l_inception_t": receptive_field.TemporalInception,
}

# What takes a backbone's frames instead of the mean of their logits: (config, block) -> network.
ENCODERS: dict[str, Callable[..., VideoResNet]] = {
    "encoder": EncoderResNet,
    "cross_encoder": CrossEncoderResNet,
    "lstm": LSTMResNet,
    "ts_lstm": TSLSTMResNet,
    "temporal_inception": TemporalInceptionResNet,
}

# Several backbones as one network: (backbones, config) -> network.
PATHWAYS: dict[str, Callable[..., PathwayNet]] = {"pathways": PathwayNet, "integration": IntegrationNet}


Network = VideoResNet | PathwayNet | custom.VideoNet
"""What `build_model` makes."""


def build_model(config: ModelConfig) -> Network:
    """Return the network `config` describes, channels-last, in training mode, on the CPU.

    It maps clips (B, T, 3, H, W) to logits (B, num_classes). With `config.pretrained` weights are read here; to load a
    checkpoint of the complete network afterwards, build it with `config.without_files()`.

    >>> net = build_model(ModelConfig(arch="vpsn", depth=18, num_classes=8, num_segments=4))
    >>> net(torch.zeros(2, 4, 3, 64, 64)).shape
    torch.Size([2, 8])

    Raises:
        ValueError: an impossible configuration, or weights that cannot be had or do not fit.
    """
    if config.is_custom:
        custom.find_class(config)  # with the head asked for; parts are built with another
    fresh: set[str] = set()
    if config.head in PATHWAYS:
        net = _build_pathways(config)
        if config.pretrained is not None:
            fresh = net.load_pretrained(config.pretrained, config.depth)
    else:
        net = _build_backbone(config)
        if config.pretrained is not None:
            fresh = load_pretrained(net, config.pretrained, config.depth)
    if config.drop_path:
        check_drop_path(net, config)
    net.fresh_names = frozenset(fresh)
    freeze(net, config)
    return to_channels_last(net)


def _build_backbone(config: ModelConfig) -> VideoResNet | custom.VideoNet:
    block: Callable[[BlockSpec], Block] | None = None
    network = NETWORKS.get(config.arch, VideoResNet)
    if config.arch in BLOCKS:
        block = partial(_make_block, BLOCKS[config.arch], config.depth)
    if config.is_custom:
        found = custom.find_class(config)
        if issubclass(found, custom.VideoNet):
            return found(config)
        if issubclass(found, Block):
            block = found
        else:
            network = found
    if config.backbone == "resnet_rs":
        block = with_resnet_rs(config, block)
    if config.drop_path:
        block = with_drop_path(config, block)
    if config.head in ENCODERS:
        net = ENCODERS[config.head](config, block)
    else:
        net = network(config.depth, config.num_classes, config.num_segments, config.dropout, block)
    if config.backbone == "resnet_rs":
        replace_stem(net)
    if config.init == "am_mup":
        am_mup.initialize(net, config.depth)
    if config.arch in INSERTED:
        _insert(net, config, INSERTED[config.arch])
    return net


def _make_block(make: Callable[[BlockSpec, int], Block], depth: int, place: BlockSpec) -> Block:
    return make(place, depth)


def _build_pathways(config: ModelConfig) -> PathwayNet:
    """Build the pathways; with no levels, as where no dataset is known yet, only that of the classes."""
    sizes = [*(len(classes) for _, classes in config.levels), config.num_classes]
    frames = config.pathway_frames[-len(sizes) :]
    backbones = [
        _build_backbone(replace(config, head="mean", levels=(), num_classes=size, num_segments=count))
        for size, count in zip(sizes, frames)
    ]
    return PATHWAYS[config.head](backbones, config)


def _insert(net: VideoResNet, config: ModelConfig, build: Callable[..., Inserted]) -> None:
    scale = config.synthesizer.expand_init_scale
    if scale is None:
        scale = 1.0 if config.pretrained is None else 0.01
    for stage in (stage for stage in net.stage_channels if stage in config.synthesizer.stages):
        module = build(net.stage_channels[stage], config.num_segments, config.synthesizer)
        with torch.no_grad():
            module.expand.weight.mul_(scale)
        net.synthesizers[stage] = module
