"""The networks: clips (B, T, 3, H, W) -> logits (B, num_classes)."""

from model.build import build_model
from model.config import ModelConfig, SynthesizerConfig
from model.freeze import freeze
from model.resnet import Outputs

__all__ = ["ModelConfig", "Outputs", "SynthesizerConfig", "build_model", "freeze"]
