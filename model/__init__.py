"""The networks: clips (B, T, 3, H, W) -> logits (B, num_classes).

    net = build_model(ModelConfig(arch="vpsn", depth=50, num_classes=174, num_segments=8))
    logits = net(clips)
    outputs = net(clips, with_losses=True)     # Outputs: logits and the synthesizers' losses
    net = fuse_batch_norm(net)                 # after training: the produced filters, for prediction and export

Data flows through `config` -> `build` (the register of architectures) -> `resnet` (the network all of them are) ->
`synthesizer`, or one file per baseline; `encoder_head` and `hierarchy` put other heads on it; `custom` finds blocks and
networks that are not ours. `weights` reads pretrained ones, `ledger` counts what a network costs.
"""

from model.build import Network, build_model
from model.config import EncoderConfig, ModelConfig, SynthesizerConfig
from model.custom import VideoNet
from model.fuse import fuse_batch_norm
from model.resnet import BasicBlock, Block, BlockSpec, Bottleneck, Outputs, VideoResNet

__all__ = [
    "BasicBlock",
    "Block",
    "BlockSpec",
    "Bottleneck",
    "EncoderConfig",
    "ModelConfig",
    "Network",
    "Outputs",
    "SynthesizerConfig",
    "VideoNet",
    "VideoResNet",
    "build_model",
    "fuse_batch_norm",
]
