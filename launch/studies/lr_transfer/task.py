"""What learning rates are compared on: networks of a given depth, images made for them, and a short training.

An image is one of 40 smooth patterns or its negative, under noise; its class is the pattern's number modulo 10. So no
linear map of the pixels shows the class, and a hundred steps are neither nothing nor enough.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import ModelConfig, build_model
from model.config import Depth
from model.resnet import Block
from sharding.errors import check_minimum

NUM_CLASSES, NUM_PATTERNS, PATTERN_SIZE = 10, 40, 3
DIVERGED = 100.0
"""Times the loss of guessing: a training is given up above it."""


@dataclass(frozen=True)
class TaskConfig:
    """A network family and how it is trained."""

    network: Literal["residual", "plain", "resnet"] = "residual"
    """residual: a stem, depth blocks x + conv(relu(x)), a classifier; plain: depth convolutions with ReLU, a
    classifier; resnet: the ResNet of that depth, 18 to 101, with its BatchNorm."""
    branch_convolutions: int = 1
    """residual: convolutions with ReLU in a branch."""
    init: Literal["am_mup", "kaiming"] = "am_mup"
    """Initial weights of residual branches: scaled down by their number, or not."""
    batch_norm: bool = False
    """residual and plain: BatchNorm behind every convolution but the stem."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimizer whose learning rate it is."""
    momentum: float = 0.0
    """Momentum of SGD; of Adam the first decay."""
    width: int = 64
    """residual and plain: channels."""
    image_size: int = 8
    """Height and width of the images."""
    batch_size: int = 16
    """Images a step."""
    steps: int = 100
    """Steps of each training."""
    noise: float = 0.5
    """Standard deviation of the noise; that of the patterns is 1."""
    repeats: int = 1
    """Trainings, of other weights and images, whose losses are averaged."""

    def __post_init__(self) -> None:
        counts = ("branch_convolutions", "width", "image_size", "batch_size", "steps", "repeats")
        check_minimum(self, 1, *counts, prefix="--task.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"--task.momentum {self.momentum}: use 0 <= momentum < 1")
        check_minimum(self, 0, "noise", prefix="--task.")
        if self.network == "plain" and self.init == "kaiming":
            raise ValueError("--task.init kaiming: a plain network has no residual branches; leave it out")
        if self.network == "resnet" and self.batch_norm:
            raise ValueError("--task.batch_norm true: the ResNets have theirs anyway; leave it out")


class Residual(nn.Module):
    """x + conv(relu(x)), or more convolutions one behind the other."""

    def __init__(self, config: TaskConfig, num_blocks: int) -> None:
        super().__init__()
        self.branch = nn.Sequential()
        for _ in range(config.branch_convolutions):
            self.branch.append(nn.ReLU())
            self.branch.extend(_convolution(config.width, config.width, config.batch_norm, num_blocks))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def build_network(config: TaskConfig, depth: int) -> nn.Module:
    """Map images (B, 3, H, W) to logits (B, 10)."""
    if config.network == "resnet":
        model = ModelConfig("tsn", cast(Depth, depth), NUM_CLASSES, num_segments=1, dropout=0.0, init=config.init)
        return nn.Sequential(nn.Unflatten(0, (-1, 1)), build_model(model))
    width, norm = config.width, config.batch_norm
    if config.network == "residual":
        scale = depth if config.init == "am_mup" else 1
        layers = [*_convolution(3, width, False, 1), *(Residual(config, scale) for _ in range(depth)), nn.ReLU()]
    else:
        layers = [*_convolution(3, width, False, 1), nn.ReLU()]
        for _ in range(depth - 1):
            layers += [*_convolution(width, width, norm, 1), nn.ReLU()]
    classifier = nn.Linear(width, NUM_CLASSES)
    nn.init.normal_(classifier.weight, std=1 / math.sqrt(width))
    nn.init.zeros_(classifier.bias)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier)


def _convolution(in_channels: int, width: int, batch_norm: bool, num_blocks: int) -> list[nn.Module]:
    module = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
    nn.init.normal_(module.weight, std=math.sqrt(2 / (num_blocks * module.weight[0].numel())))
    return [module, nn.BatchNorm2d(width)] if batch_norm else [module]


def draw_batch(config: TaskConfig, repeat: int, step: int) -> tuple[Tensor, Tensor]:
    """Return images (B, 3, H, W) and labels (B,) of a step; the patterns are those of every step and repeat."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(NUM_PATTERNS, 3, PATTERN_SIZE, PATTERN_SIZE, generator=generator)
    patterns = F.interpolate(patterns, (config.image_size,) * 2, mode="bicubic", align_corners=True)
    patterns /= patterns.std((1, 2, 3), keepdim=True)
    generator.manual_seed(1 + repeat * 1_000_000 + step)
    which = torch.randint(NUM_PATTERNS, (config.batch_size,), generator=generator)
    signs = 2 * torch.randint(2, (config.batch_size, 1, 1, 1), generator=generator) - 1
    images = signs * patterns[which]
    return images + config.noise * torch.randn(images.shape, generator=generator), which % NUM_CLASSES


def train(config: TaskConfig, depth: int, learning_rate: float) -> float:
    """Return the mean loss of the last fifth of the steps, over the repeats; infinite if one diverged."""
    return sum(_train_once(config, depth, learning_rate, repeat) for repeat in range(config.repeats)) / config.repeats


def _train_once(config: TaskConfig, depth: int, learning_rate: float, repeat: int) -> float:
    torch.manual_seed(repeat)
    net = build_network(config, depth).to(memory_format=torch.channels_last)
    optimizer = _OPTIMIZERS[config.optimizer](config.momentum)(net.parameters(), lr=learning_rate)
    losses = []
    for step in range(config.steps):
        images, labels = draw_batch(config, repeat, step)
        loss = F.cross_entropy(net(images.to(memory_format=torch.channels_last)), labels)
        losses.append(loss.item())
        if not losses[-1] < DIVERGED * math.log(NUM_CLASSES):
            return math.inf
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    last = losses[-max(1, config.steps // 5) :]
    return sum(last) / len(last)


def mean_square_update(config: TaskConfig, depth: int, draws: int = 8) -> float:
    """Return the quantity that the theory holds constant, for a learning rate near zero and divided by its square:

        1/L sum_l E[(dz_l)^2] / rate^2

    dz_l is what one step of SGD, without momentum, changes of what layer l gives for the step's own images; the mean is
    over elements, layers of the shortest path without the classifier, and draws of weights and images. In float64.
    """
    rate, total = 1e-6, 0.0
    for draw in range(draws):
        torch.manual_seed(draw)
        net = build_network(config, depth).double()
        images, labels = draw_batch(config, draw, 0)
        before, loss = _record(net, images.double(), labels)
        loss.backward()
        with torch.no_grad():
            for parameter in net.parameters():
                assert parameter.grad is not None
                parameter -= rate * parameter.grad
            after, _ = _record(net, images.double(), labels)
        changes = [((new - old) / rate).square().mean() for new, old in zip(after, before)]
        total += float(sum(changes)) / len(changes)
    return total / draws


def _record(net: nn.Module, images: Tensor, labels: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return what the layers of the shortest path give, and the loss."""
    outputs: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach().clone()))
        for layer in _path(net)
    ]
    loss = F.cross_entropy(net(images), labels)
    for hook in hooks:
        hook.remove()
    return outputs, loss


def _path(net: nn.Module) -> list[nn.Module]:
    """Return the layers of a network's shortest path: its first convolution and its residual blocks, or all
    convolutions."""
    convolutions: list[nn.Module] = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    blocks = [module for module in net.modules() if isinstance(module, (Residual, Block))]
    return [convolutions[0], *blocks] if blocks else convolutions


_OPTIMIZERS: dict[str, Callable[[float], Callable[..., torch.optim.Optimizer]]] = {
    "sgd": lambda momentum: partial(torch.optim.SGD, momentum=momentum),
    "adam": lambda momentum: partial(torch.optim.Adam, betas=(momentum, 0.999)),
}
