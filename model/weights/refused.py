"""Weights of networks that are none of ours: which they look like, and why they are not taken.

Some have names that would fit, and would then compute something else: those are the reason for this list.
"""

import re
from collections.abc import Callable

from model.weights.families import RESNET_RS, Names

_Test = Callable[[Names, str], bool]


def explain_refusal(names: Names, text: str) -> str:
    """Return which network these names are of and why it cannot be had here, "" if it is not known.

    Args:
        names: shapes by name, without wrappers and common prefixes.
        text: the configuration that came with them, as the text of its program.
    """
    return next((f"{family}: {reason}" for family, reason, test in _REFUSED if test(names, text)), "")


def _named(pattern: str) -> _Test:
    return lambda names, _: any(re.search(pattern, name) for name in names)


def _says(pattern: str) -> _Test:
    return lambda _, text: re.search(pattern, text) is not None


def _of_mmaction2(test: _Test) -> _Test:
    return lambda names, text: any(".conv1.conv." in f".{name}" for name in names) and test(names, text)


def _stem_frames(names: Names) -> int:
    """Return over how many frames a three-dimensional first convolution is; 0 if there is none."""
    stems = ("s1.pathway0_stem.conv", "blocks.0.conv", "backbone.conv1.conv", "conv1.conv")
    shapes = (names.get(f"{stem}.weight", ()) for stem in stems)
    return next((shape[2] for shape in shapes if len(shape) == 5), 0)


def _without_time(names: Names, _: str) -> bool:
    """Whether a three-dimensional network of SlowFast or pytorchvideo has no kernel over time at all."""
    if _stem_frames(names) != 1 or any(name.startswith(("backbone.", "conv1.")) for name in names):
        return False
    return all(shape[2] == 1 for shape in names.values() if len(shape) == 5)


def _with_deep_stem(names: Names, _: str) -> bool:
    """Whether a ResNet's first convolution is several, but for ResNet-RS, which is here."""
    deep = r"(^|\.)conv1\.0\.weight$|downsample\.[23]\.|(^|\.)stem\.0\."
    return not RESNET_RS.matches(names) and any(re.search(deep, name) for name in names)


_STRIDES_ELSEWHERE = "it strides in the first 1x1 of a block, all networks here in the 3x3"
_NO_SUCH = "there is no such network here"

_REFUSED: tuple[tuple[str, str, _Test], ...] = (
    ("SlowFast of two pathways", "only its slow pathway alone, SLOW, is one of the networks here (slowonly)",
     _named(r"^s1\.pathway1_stem\.|^blocks\.0\.multipathway_blocks\.|(^|\.)fast_path\.")),
    ("X3D", _NO_SUCH, _named(r"pathway0_stem\.conv_xy|^blocks\.0\.conv\.conv_(t|xy)|layer1\.0\.se_module\.")),
    ("R(2+1)D", _NO_SUCH, _named(r"branch2\.conv_b\.conv_[ts]\.|\.conv_[st]\.weight$|layer1\.0\.conv1\.0\.[03]\.")),
    ("a vision transformer", "the networks here are ResNets",
     _named(r"(^|\.)blocks\.\d+\.(\w+\.)?attn\.|patch_embed\.|(^|\.)cls_token$|\.relative_position_bias_table$")),
    ("a network with non-local blocks", _NO_SUCH, _named(r"\.nl\.g\.|non_local|_nonlocal\d")),
    ("TSM with temporal pooling", "no network here pools over time in layer2", _named(r"(^|\.)layer2\.net\.")),
    ("TSM that shifts before whole blocks (shift_place=block)",
     "here only the residual branch is shifted, as in blockres", _named(r"(^|\.)layer1\.0\.net\.conv1\.")),
    ("caffe-style ResNet (mmaction2)", _STRIDES_ELSEWHERE, _of_mmaction2(_says(r"\bstyle=['\"]caffe['\"]"))),
    ("C2D (mmaction2)", "it pools over time after layer1, which no network here does",
     _of_mmaction2(_says(r"\btype=['\"]C2D['\"]"))),
    ("TSM with another share of shifted channels (mmaction2)", "here it is 1/8, shift_div=8",
     _of_mmaction2(_says(r"\bshift_div=(?!8\b)\d+"))),
    ("SLOW with STRIDE_1X1 (SlowFast)", _STRIDES_ELSEWHERE, _says(r"(?m)^\s*STRIDE_1X1: true\b")),
    ("SLOW on BGR pictures (SlowFast)", "here pictures are RGB", _says(r"(?m)^\s*REVERSE_INPUT_CHANNEL: true\b")),
    ("I3D", "its first convolution is over several frames; the one of slowonly is over one",
     lambda names, _: _stem_frames(names) > 1),
    ("C2D (SlowFast, pytorchvideo)", "it pools over time, which no network here does", _without_time),
    ("ResNet-D (resnet50d of timm)",
     "its first convolution is three, and its shortcuts pool; of such networks only ResNet-RS (resnetrs50) is here",
     _with_deep_stem),
    ("P3D of its authors (P3D-63, P3D-199)", "it strides in the first 1x1 and pools time; p3d here does neither",
     _named(r"(^|\.)conv1_custom\.|\.conv_normal\.")),
    ("P3D of the repository of DG-P3D", "it has one BN for both kernels and strides over time; p3d here does neither",
     lambda names, _: any(".conv2_t." in name for name in names) and not any("_dual" in name for name in names)),
    ("STM of other authors' code", "its paths are joined otherwise than in stm here", _named(r"(?i)\.c(st|m)m\d?\.")),
    ("ResNeXt or Wide ResNet", "the widths of its blocks are others",
     lambda names, _: len(shape := names.get("layer1.0.conv2.weight", ())) == 4 and shape[:2] != (64, 64)),
)  # fmt: skip
