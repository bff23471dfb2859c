"""The networks: clips (B, T, 3, H, W) -> logits (B, num_classes).

    net = build_model(ModelConfig(arch="vpsn", depth=50, num_classes=174, num_segments=8))
    logits = net(clips)
    outputs = net(clips, with_losses=True)     # Outputs: logits and the synthesizers' losses
    net = fuse_batch_norm(net)                 # after training: the produced filters, for prediction and export

Data flows through `config` -> `build` (the register of architectures) -> `resnet` (the network all of them are) ->
`synthesizer`, or one file per baseline; `heads` puts other heads on it; `custom` finds blocks and
networks that are not ours. `pretrained` reads weights, `complexity` counts what a network costs.

The configuration needs no torch: each name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.build import Network, build_model
    from model.config import EncoderConfig, ModelConfig, SynthesizerConfig
    from model.custom import VideoNet
    from model.fuse import fuse_batch_norm
    from model.heads.config import LSTMConfig, TemporalInceptionConfig, TSLSTMConfig
    from model.resnet import BasicBlock, Block, BlockSpec, Bottleneck, Outputs, VideoResNet

__all__ = [
    "BasicBlock",
    "Block",
    "BlockSpec",
    "Bottleneck",
    "EncoderConfig",
    "LSTMConfig",
    "ModelConfig",
    "Network",
    "Outputs",
    "SynthesizerConfig",
    "TSLSTMConfig",
    "TemporalInceptionConfig",
    "VideoNet",
    "VideoResNet",
    "build_model",
    "fuse_batch_norm",
]

_MODULES = {
    "BasicBlock": "resnet",
    "Block": "resnet",
    "BlockSpec": "resnet",
    "Bottleneck": "resnet",
    "EncoderConfig": "config",
    "LSTMConfig": "heads.config",
    "ModelConfig": "config",
    "Network": "build",
    "Outputs": "resnet",
    "SynthesizerConfig": "config",
    "TSLSTMConfig": "heads.config",
    "TemporalInceptionConfig": "heads.config",
    "VideoNet": "custom",
    "VideoResNet": "resnet",
    "build_model": "build",
    "fuse_batch_norm": "fuse",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
