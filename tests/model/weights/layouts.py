"""The names that other projects give to the tensors of a ResNet, and what their networks compute.

Nothing here is taken from `model.weights`: names come from what the projects' programs save, tensors from a formula,
and `compute` runs every network on volumes (B, C, T, H, W) with three-dimensional convolutions, as most of them do.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor

COUNTS = (2, 1, 1, 1)
CLASSES = 3


def chirp(shape: tuple[int, ...], number: int) -> Tensor:
    """sin(0.37 i^2 + number) of the index i: values in [-1, 1] of variance 1/2 that look random, as float32."""
    sine, cosine = (values[: torch.Size(shape).numel()] for values in _sine_and_cosine())
    return (sine * math.cos(number) + cosine * math.sin(number)).reshape(shape)


@cache
def _sine_and_cosine(most: int = 2**23) -> tuple[Tensor, Tensor]:
    angle = 0.37 * torch.arange(most, dtype=torch.float64) ** 2
    return angle.sin().float(), angle.cos().float()


@dataclass
class Layout:
    """A project's names; `conv` and `bn` map (stage, block, number) to a module, number 0 being the shortcut's."""

    conv: Callable[[int, int, int], str]
    bn: Callable[[int, int, int], str]
    stem: tuple[str, str]
    fc: str
    volumes: bool = False
    kind: str = "plain"
    """What its blocks do: plain, shift, slow, gst, tea, dg."""
    state: dict[str, Tensor] = field(default_factory=dict)

    def make(self, bottlenecks: bool = True) -> dict[str, Tensor]:
        """Fill and return the state dict."""
        numbers = count()

        def conv(name: str, *shape: int, scale: float = 1.0) -> None:
            fan = torch.Size(shape[1:]).numel()
            self.state[f"{name}.weight"] = scale * chirp(shape, next(numbers)) * (4 / fan) ** 0.5

        def bn(name: str, channels: int) -> None:
            for leaf, base in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
                self.state[f"{name}.{leaf}"] = base + (0.3 if base else 0.1) * chirp((channels,), next(numbers))
            self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

        def linear(name: str, outputs: int, inputs: int) -> None:
            conv(name, outputs, inputs)
            self.state[f"{name}.bias"] = 0.1 * chirp((outputs,), next(numbers))

        depth_of = (4 if self.kind == "dg" else 1,) if self.volumes else ()
        one = (1,) if self.volumes else ()
        conv(self.stem[0], 64, 3, *depth_of, 7, 7)
        bn(self.stem[1], 64)
        inputs, expansion = 64, 4 if bottlenecks else 1

        def stage_of(stage: int, rename: Callable[[str], str], inputs: int) -> int:
            for block in range(COUNTS[stage - 1]):
                names = [rename(self.conv(stage, block, number)) for number in range(4)]
                norms = [rename(self.bn(stage, block, number)) for number in range(4)]
                width = 32 * 2**stage
                taps = (3,) if self.kind == "slow" and stage >= 3 else one
                base = names[3].removesuffix(".conv3")
                if block == 0 and (stage > 1 or bottlenecks):
                    conv(names[0], expansion * width, inputs, *one, 1, 1)
                    bn(norms[0], expansion * width)
                if not bottlenecks:
                    for number, channels in ((1, inputs), (2, width)):
                        conv(names[number], width, channels, *taps, 3, 3)
                        bn(norms[number], width)
                    inputs = width
                    continue
                middle = width * 26 // 64 * 4 if self.kind == "tea" else width
                conv(names[1], middle, inputs, *taps, 1, 1)
                bn(norms[1], middle)
                if self.kind == "gst":
                    conv(names[2], 3 * width // 4, width // 2, 1, 3, 3)
                    conv(f"{base}.Tconv", width // 4, width // 2, 3, 3, 3)
                    bn(norms[2], width)
                elif self.kind == "tea":
                    split, squeezed = middle // 4, middle // 16
                    conv(f"{base}.me.conv1", squeezed, middle, 1, 1)
                    bn(f"{base}.me.bn1", squeezed)
                    conv(f"{base}.me.conv2", squeezed, 1, 3, 3)
                    conv(f"{base}.me.conv3", middle, squeezed, 1, 1)
                    bn(f"{base}.me.bn3", middle)
                    for i in range(4):
                        conv(f"{base}.shifts.{i}.conv", split, 1, 3)
                        if i < 3:
                            conv(f"{base}.convs.{i}", split, split, 3, 3)
                            bn(f"{base}.bns.{i}", split)
                else:
                    conv(names[2], width, width, *one, 3, 3)
                    bn(norms[2], width)
                if self.kind == "dg":
                    conv(f"{base}.conv2_t", width, width, 3, 1, 1)
                    linear(f"{base}.fc1", 4 * width // 16, 4 * width)
                    linear(f"{base}.fc2", 4 * width, 4 * width // 16)
                conv(names[3], 4 * width, middle, *one, 1, 1)
                bn(norms[3], 4 * width)
                inputs = 4 * width
            return inputs

        for stage in (1, 2, 3, 4):
            before = inputs
            inputs = stage_of(stage, lambda name: name, before)
        linear(self.fc, CLASSES, inputs)
        if self.kind == "dg":
            stage_of(4, lambda name: name.replace("layer4.", "layer4_dual."), before)
            linear("fc_dual", CLASSES, inputs)
        return self.state

    @torch.no_grad()
    def compute(self, clips: Tensor, bottlenecks: bool = True) -> Tensor:
        """Return logits (B, classes) of clips (B, T, 3, H, W) in float64, as the project's network computes them."""
        state = {name: value.double() for name, value in self.state.items()}

        def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
            weight = state[f"{name}.weight"]
            weight = weight[..., None, None] if weight.ndim == 3 else weight
            weight = weight.unsqueeze(2) if weight.ndim == 4 else weight
            return F.conv3d(
                x, weight, stride=(1, stride, stride), padding=[size // 2 for size in weight.shape[2:]], groups=groups
            )

        def bn(x: Tensor, name: str) -> Tensor:
            mean, var, weight, bias = (
                state[f"{name}.{leaf}"].view(-1, 1, 1, 1) for leaf in ("running_mean", "running_var", "weight", "bias")
            )
            return (x - mean) / (var + 1e-5).sqrt() * weight + bias

        def linear(x: Tensor, name: str) -> Tensor:
            return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

        def excite(x: Tensor, base: str) -> Tensor:
            squeezed = bn(conv(x, f"{base}.me.conv1"), f"{base}.me.bn1")
            following = conv(squeezed, f"{base}.me.conv2", groups=squeezed.shape[1])
            motion = torch.zeros_like(squeezed)
            motion[:, :, :-1] = following[:, :, 1:] - squeezed[:, :, :-1]
            gate = bn(conv(motion.mean((3, 4), keepdim=True), f"{base}.me.conv3"), f"{base}.me.bn3").sigmoid() - 0.5
            return x + x * gate

        def middle(x: Tensor, stage: int, block: int, base: str, stride: int, index: int) -> Tensor:
            name, norm = self.conv(stage, block, 2), self.bn(stage, block, 2)
            if "layer4_dual" in base:
                name, norm = (part.replace("layer4.", "layer4_dual.") for part in (name, norm))
            if self.kind == "gst":
                left, right = x.chunk(2, dim=1)
                x = torch.cat([conv(left, name, stride), conv(right, f"{base}.Tconv", stride)], dim=1)
                return bn(x, norm).relu()
            if self.kind == "tea":
                splits, results = excite(x, base).chunk(4, dim=1), []
                for i in range(3):
                    x = splits[i] + results[-1] if results and block else splits[i]
                    x = conv(x, f"{base}.shifts.{i}.conv", groups=x.shape[1])
                    results.append(bn(conv(x, f"{base}.convs.{i}", stride), f"{base}.bns.{i}").relu())
                last = conv(splits[3], f"{base}.shifts.3.conv", groups=splits[3].shape[1])
                frames = F.avg_pool2d(last.transpose(1, 2).flatten(0, 1), 3, stride, 1)
                pooled = frames.unflatten(0, (len(x), -1)).transpose(1, 2) if block == 0 else last
                return torch.cat([*results, pooled], dim=1)
            if self.kind != "dg":
                return bn(conv(x, name, stride), norm).relu()
            over_time = f"{base}.conv2_t"
            if index % 3 == 0:
                return bn(conv(conv(x, name, stride), over_time), norm).relu()
            if index % 3 == 1:
                return bn(conv(x, name, stride) + conv(x[..., ::stride, ::stride], over_time), norm).relu()
            x = bn(conv(x, name, stride), norm).relu()
            return (x + conv(x, over_time)).relu()

        def run_stage(x: Tensor, stage: int, stride: int, dual: bool = False) -> Tensor:
            for block in range(COUNTS[stage - 1]):
                names = [self.conv(stage, block, number) for number in range(4)]
                norms = [self.bn(stage, block, number) for number in range(4)]
                if dual:
                    names = [name.replace("layer4.", "layer4_dual.") for name in names]
                    norms = [name.replace("layer4.", "layer4_dual.") for name in norms]
                step = stride if block == 0 else 1
                base, index = names[3].removesuffix(".conv3"), sum(COUNTS[: stage - 1]) + block
                shortcut = bn(conv(x, names[0], step), norms[0]) if f"{names[0]}.weight" in state else x
                seen = shifted(x) if self.kind == "shift" else x
                if bottlenecks:
                    y = bn(conv(seen, names[1]), norms[1]).relu()
                    y = bn(conv(middle(y, stage, block, base, step, index), names[3]), norms[3])
                else:
                    y = bn(conv(bn(conv(seen, names[1], step), norms[1]).relu(), names[2]), norms[2])
                if self.kind == "dg":
                    context = linear(linear(y.mean((2, 3, 4)), f"{base}.fc1").relu(), f"{base}.fc2")
                    y = y + context[:, :, None, None, None]
                x = (y + shortcut).relu()
            return x

        x = clips.double().transpose(1, 2)
        if self.kind == "dg":
            x = F.conv3d(x, state[f"{self.stem[0]}.weight"], stride=(4, 2, 2), padding=(0, 3, 3))
        else:
            x = conv(x, self.stem[0], 2)
        x = F.max_pool3d(bn(x, self.stem[1]).relu(), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for stage in (1, 2, 3):
            x = run_stage(x, stage, 1 if stage == 1 else 2)
        logits = linear(run_stage(x, 4, 2).mean((2, 3, 4)), self.fc)
        if self.kind == "dg":
            pooled = F.max_pool3d(x, (4, 1, 1))
            logits = (logits + linear(run_stage(pooled, 4, 1, dual=True).mean((2, 3, 4)), "fc_dual")) / 2
        return logits


def shifted(x: Tensor) -> Tensor:
    """Channels (B, C, T, H, W) of which the first eighth comes from the next frame, the second from the previous."""
    fold, result = x.shape[1] // 8, x.clone()
    result[:, : 2 * fold] = 0
    result[:, :fold, :-1] = x[:, :fold, 1:]
    result[:, fold : 2 * fold, 1:] = x[:, fold : 2 * fold, :-1]
    return result


def torchvision_names(prefix: str = "", fc: str = "fc", kind: str = "plain", volumes: bool = False) -> Layout:
    """The names of torchvision's ResNets, and of the programs that were built on them."""
    inner = ".net" if kind == "shift" else ""

    def conv(stage: int, block: int, number: int) -> str:
        module = f"conv{number}{inner if number == 1 else ''}" if number else "downsample.0"
        return f"{prefix}layer{stage}.{block}.{module}"

    def bn(stage: int, block: int, number: int) -> str:
        return f"{prefix}layer{stage}.{block}." + (f"bn{number}" if number else "downsample.1")

    return Layout(conv, bn, (f"{prefix}conv1", f"{prefix}bn1"), fc, volumes, kind)


def mmaction2_names(kind: str, volumes: bool = False) -> Layout:
    inner = ".net" if kind == "shift" else ""

    def module(stage: int, block: int, number: int) -> str:
        return f"backbone.layer{stage}.{block}." + (f"conv{number}" if number else "downsample")

    return Layout(
        lambda stage, block, number: f"{module(stage, block, number)}.conv" + inner * (number == 1),
        lambda stage, block, number: f"{module(stage, block, number)}.bn",
        ("backbone.conv1.conv", "backbone.conv1.bn"),
        "cls_head.fc_cls",
        volumes,
        kind,
    )


def slowfast_names() -> Layout:
    def conv(stage: int, block: int, number: int) -> str:
        return f"s{stage + 1}.pathway0_res{block}." + (f"branch2.{'abc'[number - 1]}" if number else "branch1")

    stem = ("s1.pathway0_stem.conv", "s1.pathway0_stem.bn")
    return Layout(conv, lambda *place: f"{conv(*place)}_bn", stem, "head.projection", True, "slow")


def pytorchvideo_names() -> Layout:
    def module(what: str, stage: int, block: int, number: int) -> str:
        inner = f"branch2.{what}_{'abc'[number - 1]}" if number else f"branch1_{what}"
        return f"blocks.{stage}.res_blocks.{block}.{inner}"

    return Layout(
        lambda *place: module("conv", *place),
        lambda *place: module("norm", *place),
        ("blocks.0.conv", "blocks.0.norm"),
        "blocks.5.proj",
        True,
        "slow",
    )
