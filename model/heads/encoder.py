"""The CNN and transformer encoder: what a transformer makes of a clip's frames, and of the words of a coarser label.

    encoder        [class] frame 1 ... frame T                    -> classifier on [class]
    cross_encoder  [class] frame 1 ... frame T  word 1 ... word L -> classifier on [class]

A frame is the mean of its feature map, a linear map of it, and a learned position. The words are those of a label on a
*coarser* level than the one to be predicted: the network holds the names of the coarser levels' classes and no others.
In training it is given the true coarser label; without one it takes that which a classifier on the frames alone finds,
so that prediction needs nothing but the clip.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from model.config import EncoderConfig, ModelConfig
from model.heads.label_text import LabelText
from model.resnet import Block, BlockSpec, Outputs, VideoResNet, classifier, join_outputs
from model.temporal import frame_means

VIDEO, TEXT = 0, 1


class FrameEncoder(nn.Module):
    """A transformer over a class token and the frames' features, (B, T, channels) -> (B, width)."""

    def __init__(self, channels: int, num_segments: int, config: EncoderConfig, dropout: float) -> None:
        super().__init__()
        width = config.width
        self.project = nn.Linear(channels, width)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, num_segments, width))
        layers = [
            nn.TransformerEncoderLayer(
                width, config.heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.layers)
        ]
        self.transformer = nn.TransformerEncoder(layers[0], 1, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        # Made by the encoder they would all be copies of the first, and begin with the same weights.
        self.transformer.layers, self.transformer.num_layers = nn.ModuleList(layers), config.layers

    def forward(self, frames: Tensor) -> Tensor:
        return self.transformer(self.tokens(frames))[:, 0]

    def tokens(self, frames: Tensor) -> Tensor:
        """(B, T, channels) -> (B, 1 + T, width)"""
        frames = self.project(frames) + self.positions
        # The length would be a number to torch.export; the shape stays a symbol.
        return torch.cat([self.class_token.expand(frames.shape[0], -1, -1), frames], dim=1)


class FrameTextEncoder(FrameEncoder):
    """The same with the words of a label behind the frames; modality embeddings distinguish the two kinds of token."""

    def __init__(
        self, channels: int, num_segments: int, config: EncoderConfig, dropout: float, classes: tuple[str, ...]
    ) -> None:
        super().__init__(channels, num_segments, config, dropout)
        self.text = LabelText(classes, config.text_width, config.width)
        self.modality = nn.Parameter(0.02 * torch.randn(2, config.width))

    def forward(self, frames: Tensor, label: Tensor) -> Tensor:
        """Encode frames (B, T, channels), label (B,) ids among the classes of the text -> (B, width)"""
        video = self.tokens(frames) + self.modality[VIDEO]
        words, is_padding = self.text(label)
        ignored = torch.cat([is_padding.new_zeros(video.shape[:2]), is_padding], dim=1)
        tokens = torch.cat([video, words + self.modality[TEXT]], dim=1)
        return self.transformer(tokens, src_key_padding_mask=ignored)[:, 0]


class EncoderResNet(VideoResNet):
    """Any backbone, with a transformer encoder over its frames instead of the mean."""

    added = ("synthesizers", "encoder")
    head_module = "encoder"

    def __init__(self, config: ModelConfig, block: Callable[[BlockSpec], Block] | None) -> None:
        super().__init__(config.depth, config.num_classes, config.num_segments, config.dropout, block)
        self.encoder = self._build_encoder(config)
        self.fc = classifier(config.encoder.width, config.num_classes)

    def _build_encoder(self, config: ModelConfig) -> FrameEncoder:
        return FrameEncoder(self.fc.in_features, config.num_segments, config.encoder, config.dropout)

    def forward_head(self, features: Tensor) -> Tensor:
        """Return logits (B, num_classes) of feature maps (B*T, channels, h, w)."""
        return self.fc(self.dropout(self.encoder(self.frames(features))))

    def frames(self, features: Tensor) -> Tensor:
        """(B*T, channels, h, w) -> (B, T, channels)"""
        return frame_means(features, self.num_segments)


class CrossEncoderResNet(EncoderResNet):
    """Any backbone, with a transformer encoder over its frames and the text of a label of a coarser level.

    Without levels, as where no dataset is known yet, its only coarser class has no text.
    """

    added = ("synthesizers", "encoder", "coarse")
    encoder: FrameTextEncoder

    def __init__(self, config: ModelConfig, block: Callable[[BlockSpec], Block] | None) -> None:
        super().__init__(config, block)
        self.level_names = self.given_levels = (text_level(config),)
        self.coarse = classifier(self.encoder.project.in_features, len(self.encoder.text))

    def _build_encoder(self, config: ModelConfig) -> FrameTextEncoder:
        classes = dict(config.levels).get(text_level(config), ("",))
        encoder = FrameTextEncoder(self.fc.in_features, config.num_segments, config.encoder, config.dropout, classes)
        if config.encoder.word_vectors is not None:
            encoder.text.load_vectors(Path(config.encoder.word_vectors))
        return encoder

    def forward(self, clips: Tensor, coarser: Tensor | None = None, with_losses: bool = False) -> Tensor | Outputs:
        """Return what `VideoResNet` does; `coarser` (B,) are the true labels of the coarser level, by default those
        predicted.

        `Outputs.level_logits` has the logits of that level, of the frames alone.
        """
        features, losses = self._run(clips, with_losses)
        logits, coarse_logits = self._classify(features, coarser)
        outputs = join_outputs(logits, losses, (coarse_logits,))._replace(features=features)
        return outputs if with_losses else logits

    def forward_head(self, features: Tensor) -> Tensor:
        return self._classify(features, None)[0]

    def _classify(self, features: Tensor, coarser: Tensor | None) -> tuple[Tensor, Tensor]:
        frames = self.frames(features)
        coarse_logits = self.coarse(self.dropout(frames.mean(1)))
        if coarser is None:
            coarser = coarse_logits.argmax(1)
        return self.fc(self.dropout(self.encoder(frames, coarser))), coarse_logits


def text_level(config: ModelConfig) -> str:
    """Return the coarser level whose text is read: the one that is named, else the finest."""
    return config.encoder.text_level or (config.levels[-1][0] if config.levels else "")
