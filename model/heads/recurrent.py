"""LSTMs over the frames of a clip: LRCN, and TS-LSTM over parts of it.

    lstm     frame 1 ... frame T -> LSTM -> classifier on every step           -> the steps' logits, averaged
    ts_lstm  frame 1 ... frame T -> BN -> pooled in S parts -> LSTM -> BN of its last step       -> classifier

A frame is the mean of its feature map.

lstm is the activity recognition of LRCN (Donahue et al., *Long-term Recurrent Convolutional Networks for Visual
Recognition and Description*, 2015): a CNN on each frame, an LSTM of 256 units over them (for RGB), a prediction and a
cross-entropy at every step, and the mean of all steps' predictions. Ours are the ResNet in place of CaffeNet's fc6, and
that logits are averaged where the paper averages probabilities, as everywhere in this project.

ts_lstm is the temporal segment LSTM (Ma et al., *TS-LSTM and Temporal-Inception*, 2017; arXiv 1703.10667): BatchNorm of
the features, a maximum or mean over the frames of each of 3 parts, an LSTM of 512 units over the parts, BatchNorm and
a classifier on its last step, as in the authors' code. There 25 frames are cut into 3 times 8 and the last is left out,
and every part has a BatchNorm of its own; here parts may differ by a frame, none is left out, and one BatchNorm has the
frames of all parts. The authors' input are the features of RGB and optical flow, one after the other, of networks that
were trained before; here are those of RGB alone, and the network learns with the head unless it is frozen.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.heads.config import TSLSTMConfig
from model.resnet import Block, BlockSpec, Outputs, VideoResNet, classifier, join_outputs
from model.temporal import frame_means


class LSTMResNet(VideoResNet):
    """Any backbone, with an LSTM over its frames and a classifier on every step; what a step says depends on no later
    frame, unless the backbone mixes them."""

    added = ("synthesizers", "lstm")
    head_module = "lstm"

    def __init__(self, config: ModelConfig, block: Callable[[BlockSpec], Block] | None) -> None:
        super().__init__(config.depth, config.num_classes, config.num_segments, config.dropout, block)
        options = config.lstm
        self.lstm = nn.LSTM(self.fc.in_features, options.width, options.layers, batch_first=True)
        self.fc = classifier(options.width, config.num_classes)

    def forward(self, clips: Tensor, with_losses: bool = False) -> Tensor | Outputs:
        """Return what `VideoResNet` does; `Outputs.step_logits` has the logits of every step."""
        features, losses = self._run(clips, with_losses)
        steps = self.forward_steps(features)
        logits = steps.mean(1)
        outputs = join_outputs(logits, losses)._replace(step_logits=steps, features=features)
        return outputs if with_losses else logits

    def forward_head(self, features: Tensor) -> Tensor:
        """Return logits (B, num_classes) of feature maps (B*T, channels, h, w): the mean of the steps' logits."""
        return self.forward_steps(features).mean(1)

    def forward_steps(self, features: Tensor) -> Tensor:
        """(B*T, channels, h, w) -> (B, T, num_classes)"""
        states = run_lstm(self.lstm, frame_means(features, self.num_segments))
        return self.fc(self.dropout(states.flatten(0, 1))).unflatten(0, (-1, self.num_segments))


class SegmentLSTM(nn.Module):
    """An LSTM over parts of a clip, frames' features (B, T, channels) -> (B, width)."""

    def __init__(self, channels: int, num_frames: int, config: TSLSTMConfig) -> None:
        super().__init__()
        self.lengths, self.pooling = part_lengths(num_frames, config.segments), config.pooling
        self.norm = nn.BatchNorm1d(channels)
        self.lstm = nn.LSTM(channels, config.width, config.layers, batch_first=True)
        self.last_norm = nn.BatchNorm1d(config.width)

    def forward(self, frames: Tensor) -> Tensor:
        parts = self.pool(self.norm(frames.flatten(0, 1)).unflatten(0, (-1, frames.shape[1])))
        states = run_lstm(self.lstm, parts)
        return self.last_norm(states[:, -1])

    def pool(self, frames: Tensor) -> Tensor:
        """(B, T, channels) -> (B, segments, channels)"""
        parts = frames.split(self.lengths, dim=1)
        return torch.stack([part.amax(1) if self.pooling == "max" else part.mean(1) for part in parts], dim=1)


class TSLSTMResNet(VideoResNet):
    """Any backbone, with an LSTM over parts of the clip."""

    added = ("synthesizers", "ts_lstm")
    head_module = "ts_lstm"

    def __init__(self, config: ModelConfig, block: Callable[[BlockSpec], Block] | None) -> None:
        super().__init__(config.depth, config.num_classes, config.num_segments, config.dropout, block)
        self.ts_lstm = SegmentLSTM(self.fc.in_features, config.num_segments, config.ts_lstm)
        self.fc = classifier(config.ts_lstm.width, config.num_classes)

    def forward_head(self, features: Tensor) -> Tensor:
        """Return logits (B, num_classes) of feature maps (B*T, channels, h, w)."""
        return self.fc(self.dropout(self.ts_lstm(frame_means(features, self.num_segments))))


def run_lstm(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """Return the states of all steps (B, T, width) for inputs (B, T, channels), in float32.

    In mixed precision a GPU would run it in float16, in bf16 training too, where no loss scale keeps small gradients.
    """
    device = x.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return lstm(x)[0]
    with torch.autocast(device, enabled=False):
        return lstm(x.float())[0]


def part_lengths(num_frames: int, parts: int) -> list[int]:
    """Return the frames of each part of a clip, which differ by one at most.

    >>> part_lengths(8, 3), part_lengths(25, 3)
    ([2, 3, 3], [8, 8, 9])
    """
    return [(part + 1) * num_frames // parts - part * num_frames // parts for part in range(parts)]
