"""What a network is made of, as plain data: checkpoints carry it, `--help` is made from it, `build_model` reads it."""

from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Literal, get_args

from model.field_checks import check_counts, check_plain
from model.heads.config import LSTMConfig, TemporalInceptionConfig, TSLSTMConfig

Architecture = Literal[
    "vpsn",
    "tsn",
    "tsm",
    "gst",
    "tea",
    "stm",
    "p3d",
    "p3d_a",
    "p3d_b",
    "p3d_c",
    "rf_s",
    "rf_l",
    "rf_l_inception",
    "rf_l_inception_t",
    "slowonly",
    "dg_p3d",
]
Head = Literal["mean", "encoder", "cross_encoder", "lstm", "ts_lstm", "temporal_inception", "pathways", "integration"]
Stage = Literal["stem", "layer1", "layer2", "layer3", "layer4"]

PLACEMENTS: dict[str, tuple[Stage, ...]] = {
    "A": ("stem", "layer1", "layer2", "layer3"),
    "B": ("layer1", "layer2", "layer3", "layer4"),
}
Depth = Literal[18, 34, 50, 101, 152, 200, 270, 350, 420]

# The depths of each architecture: these replace parts of a bottleneck, which ResNet-18 and 34 have none of.
_OF_BOTTLENECKS = ("tea", "stm", "p3d", "p3d_a", "p3d_b", "p3d_c", "dg_p3d")
DEPTHS: dict[str, tuple[int, ...]] = {
    arch: (50, 101) if arch in _OF_BOTTLENECKS else (18, 34, 50, 101) for arch in get_args(Architecture)
}
RS_DEPTHS = (50, 101, 152, 200, 270, 350, 420)
"""Those of ResNet-RS."""


@dataclass(frozen=True)
class SynthesizerConfig:
    """The action perceptron synthesizer; each option is a row of the paper's Tables 1 to 3."""

    placement: Literal["A", "B"] | tuple[Stage, ...] = "A"
    """After which stages a synthesizer is inserted: A = stem, layer1, layer2, layer3; B = layer1 to layer4; or a
    list."""

    proportion: float = 0.25
    """Share p of a stage's channels that the synthesizer works on, 0 < p <= 1."""

    receptive_field: Literal["5x5x5", "5x5x7"] = "5x5x5"
    """Largest receptive field, height x width x time."""

    pooling: Literal["max", "avg", "none"] = "max"
    """Operation of the pooling branches; with none that group passes through unchanged."""

    inter_relu: bool = True
    """Whether a ReLU is between the spatial and the temporal kernels."""

    dilation: bool = True
    """Whether kernels of size 5 and 7 are dilated 3s; otherwise they have all their taps."""

    factorization: Literal["(2+1)D", "(1+1+1)D"] = "(2+1)D"
    """Square spatial kernels, (2+1)D, or as a row then a column, (1+1+1)D."""

    fusion: Literal["learned", "grouping", "shuffle", "dropout"] = "learned"
    """How spatial groups reach temporal groups: the learned matrix T, or one of the fixed matrices it contains."""

    interaction_norm: Literal["sum", "mean"] = "sum"
    """What the interaction loss takes the sigmoid of: the sum of |T_ij| (Eq. 2), which saturates early, or that sum
    divided by the channels of a group."""

    expand_init_scale: float | None = None
    """Factor on the initial weights of the last convolution; null means 0.01 with pretrained weights and 1 without."""

    def __post_init__(self) -> None:
        if not isinstance(self.placement, str):
            object.__setattr__(self, "placement", tuple(self.placement))
        check_plain(self, "model.synthesizer")
        stages = PLACEMENTS.get(self.placement, ()) if isinstance(self.placement, str) else self.placement
        if not stages or not set(stages) <= set(get_args(Stage)) or len(set(stages)) != len(stages):
            raise ValueError(
                f"model.synthesizer.placement={self.placement!r}: allowed are A, B or a list of different stages among "
                f"{', '.join(get_args(Stage))}"
            )
        if not 0 < self.proportion <= 1:
            raise ValueError(f"model.synthesizer.proportion={self.proportion}: allowed is 0 < proportion <= 1")
        if self.expand_init_scale is not None and self.expand_init_scale < 0:
            raise ValueError(f"model.synthesizer.expand_init_scale={self.expand_init_scale}: allowed is null or >= 0")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that a synthesizer follows."""
        return PLACEMENTS[self.placement] if isinstance(self.placement, str) else self.placement


@dataclass(frozen=True)
class EncoderConfig:
    """The transformer encoder of the heads encoder and cross_encoder."""

    width: int = 512
    """Width of a token."""

    layers: int = 2
    """Transformer layers."""

    heads: int = 8
    """Attention heads; they divide the width."""

    text_level: str | None = None
    """cross_encoder: the coarser level whose label text joins the frames; null takes the finest of them."""

    text_width: int = 64
    """cross_encoder: width of the vectors of words before they are mapped to tokens."""

    word_vectors: str | None = None
    """cross_encoder: text file with a word and text_width numbers a line (as GloVe and fastText publish them) that the
    words of the labels start from; null starts from random vectors."""

    def __post_init__(self) -> None:
        check_plain(self, "model.encoder")
        check_counts(self, "width", "layers", "heads", "text_width", prefix="model.encoder")
        if self.width % self.heads:
            raise ValueError(f"model.encoder.width={self.width}: allowed is a multiple of heads={self.heads}")


@dataclass(frozen=True)
class ModelConfig:
    """A network from clips (B, T, 3, H, W) to logits (B, num_classes)."""

    arch: Architecture | str = "vpsn"
    """Architecture: vpsn is the ResNet with synthesizers, tsn the plain ResNet on each frame, the others baselines; or
    a block or network of your own, as MODULE:CLASS (docs/extending.md)."""

    depth: Depth = 50
    """Layers of the ResNet, 18 to 101; tea, stm, p3d and dg_p3d are made of bottlenecks and have 50 or 101, with
    model.backbone=resnet_rs all but tea and dg_p3d 50 to 420."""

    num_classes: int = 400
    """Number of classes."""

    num_segments: int = 8
    """Frames of a clip, T."""

    dropout: float = 0.3
    """Probability of dropping a feature before the classifier, 0 <= p < 1."""

    drop_path: float = 0.0
    """Stochastic depth: probability of dropping the last residual block's branch for a clip in training, 0 <= p < 1; of
    the blocks before it is the smaller the earlier they are."""

    backbone: Literal["resnet", "resnet_rs"] = "resnet"
    """The ResNet that the architecture is built on. resnet: the plain one; resnet_rs: ResNet-RS, with a stem of 3x3
    convolutions, shortcuts that average, and squeeze-and-excitation in every block (docs/resnet_rs.md)."""

    pretrained: str | None = None
    """Weights to start from: imagenet (torchvision's), a file of this or of another project (docs/weights.md), or in
    training the folder of a run or checkpoint; null starts from scratch."""

    init: Literal["kaiming", "am_mup"] = "kaiming"
    """Initial weights of the ResNet: kaiming, He's by fan-out; am_mup, He's by fan-in, in residual branches with a
    variance divided by the number of blocks."""

    frozen_stages: int = -1
    """Stages that training leaves as model.pretrained has them, BatchNorm included: 0 the stem, 1 to 4 the stem and the
    layers up to this one, -1 none. What these weights had not got, such as synthesizers with imagenet, learns."""

    linear_probe: bool = False
    """Train the classifier alone, on the features that model.pretrained gives; everything else is frozen."""

    synthesizer: SynthesizerConfig = field(default_factory=SynthesizerConfig)
    """The blocks between the stages in vpsn and the rf architectures; the others have none."""

    head: Head = "mean"
    """What turns the features of frames into logits. mean: a classifier on each frame, averaged; encoder: a transformer
    encoder over the frames; cross_encoder: the same over the frames and the words of a coarser label; lstm: an LSTM
    over the frames, a classifier on each of its steps, averaged; ts_lstm: an LSTM over parts of the clip, a classifier
    on its last step; temporal_inception: convolutions of several lengths over the frames; pathways: a complete network
    for each level of labels; integration: the same networks, frozen, and classifiers that join them."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The transformer of the heads encoder and cross_encoder."""

    lstm: LSTMConfig = field(default_factory=LSTMConfig)
    """The LSTM of the head lstm."""

    ts_lstm: TSLSTMConfig = field(default_factory=TSLSTMConfig)
    """The LSTM of the head ts_lstm."""

    temporal_inception: TemporalInceptionConfig = field(default_factory=TemporalInceptionConfig)
    """The convolutions of the head temporal_inception."""

    pathway_frames: tuple[int, ...] = (4, 8, 16)
    """pathways, integration: frames that the network of each level takes of a clip, coarsest level first, the
    dataset's classes last."""

    join_levels: bool = True
    """integration: whether the classifier of a level sees the features of the coarser levels' networks next to those of
    its own; without, it shows what they are good for."""

    levels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Coarser levels of labels, coarsest first: each a name and the names of its classes."""

    multi_label: bool = False
    """Whether a clip may be of several classes at once, or of none: its logits are then those of sigmoids, one for each
    class, else of a softmax over all of them."""

    def __post_init__(self) -> None:
        for name, values in (
            ("pathway_frames", self.pathway_frames),
            ("levels", ((level, tuple(classes)) for level, classes in self.levels)),
        ):
            object.__setattr__(self, name, tuple(values))
        check_plain(self, "model")
        if self.arch not in DEPTHS and not self.is_custom:
            known, near = ", ".join(DEPTHS), get_close_matches(self.arch.lower(), DEPTHS, n=1)
            raise ValueError(
                f"model.arch={self.arch!r}: allowed are {known}, or a class of your own as MODULE:CLASS (mine:Net for "
                f"Net in mine.py){f'; did you mean {near[0]}?' if near else ''}"
            )
        if self.backbone == "resnet_rs":
            self._check_resnet_rs()
        depths = RS_DEPTHS if self.backbone == "resnet_rs" else DEPTHS.get(self.arch, DEPTHS["tsn"])
        if self.depth not in depths:
            allowed = ", ".join(map(str, depths))
            of = "" if self.backbone == "resnet" else f" on model.backbone={self.backbone}"
            raise ValueError(f"model.depth={self.depth}: allowed for model.arch={self.arch}{of} are {allowed}")
        check_counts(self, "num_classes", "num_segments", prefix="model")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout={self.dropout}: allowed is 0 <= dropout < 1")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"model.drop_path={self.drop_path}: allowed is 0 <= drop_path < 1")
        if self.pretrained == "imagenet" and self.arch == "tea":
            raise ValueError(
                "model.pretrained='imagenet': torchvision has no Res2Net, which model.arch=tea is; give a file of "
                "weights of Res2Net-26w-4s"
            )
        if self.head in ("pathways", "integration"):
            self._check_pathways()
        if self.head == "ts_lstm" and self.ts_lstm.segments > self.num_segments:
            raise ValueError(
                f"model.ts_lstm.segments={self.ts_lstm.segments}: allowed are 1 to {self.num_segments}, the frames of "
                "a clip (model.num_segments)"
            )
        if self.head == "temporal_inception":
            self.temporal_inception.check_frames(self.num_segments)
        names = [level for level, _ in self.levels]
        text_level = self.encoder.text_level
        if self.head == "cross_encoder" and names and text_level is not None and text_level not in names:
            raise ValueError(f"model.encoder.text_level={text_level!r}: allowed are {', '.join(names)}")
        if self.arch == "dg_p3d":
            self._check_dg_p3d()
        if self.pretrained is not None and self.init != "kaiming":
            raise ValueError(
                f"model.init={self.init!r}: model.pretrained={self.pretrained!r} would replace them; use either"
            )
        self._check_frozen()
        if self.pretrained == "":
            raise ValueError("model.pretrained='': allowed are null, imagenet, or a .pth or .safetensors file")

    @property
    def is_custom(self) -> bool:
        """Whether `arch` names a class that is not ours."""
        module, _, name = str(self.arch).partition(":")
        return not module.endswith(".py") and all(part.isidentifier() for part in [*module.split("."), name])

    def without_files(self) -> "ModelConfig":
        """Return the same network without the files that it starts from, for a checkpoint to be loaded into."""
        encoder = replace(self.encoder, word_vectors=None)
        return replace(self, pretrained=None, frozen_stages=-1, linear_probe=False, encoder=encoder)

    def _check_resnet_rs(self) -> None:
        said = "model.backbone=resnet_rs"
        if self.arch in ("tea", "dg_p3d"):
            raise ValueError(f"{said}: model.arch={self.arch} has a ResNet of its own; use resnet, or another arch")
        if self.init != "kaiming":
            raise ValueError(
                f"{said}: model.init={self.init} is for branches that do not start as nothing; use kaiming"
            )
        if self.pretrained == "imagenet":
            raise ValueError(
                f"model.pretrained='imagenet': torchvision has no ResNet-RS, which {said} is; give a file of timm's "
                f"weights for resnetrs{self.depth}"
            )

    def _check_frozen(self) -> None:
        if not -1 <= self.frozen_stages <= 4:
            raise ValueError(
                f"model.frozen_stages={self.frozen_stages}: allowed are -1 (none), 0 (the stem), 1 to 4 (the stem and "
                "layer1 up to that layer)"
            )
        if self.frozen_stages < 0 and not self.linear_probe:
            return
        said = "model.linear_probe=true" if self.linear_probe else f"model.frozen_stages={self.frozen_stages}"
        if self.linear_probe and self.frozen_stages >= 0:
            raise ValueError(f"{said}: it freezes every stage; leave model.frozen_stages={self.frozen_stages} out")
        if self.pretrained is None:
            raise ValueError(
                f"{said}: without model.pretrained what is frozen would stay random; give imagenet, a file, or the "
                "folder of a run"
            )
        if self.head == "integration":
            raise ValueError(f"{said}: model.head=integration trains nothing of its pathways anyway; leave it out")

    def _check_dg_p3d(self) -> None:
        frames, rest = divmod(self.num_segments, 4)  # that its stem makes one of; its second head pools these in fours
        if rest or (frames > 4 and frames % 4):
            raise ValueError(
                f"model.num_segments={self.num_segments}: allowed for model.arch=dg_p3d are 4, 8, 12, multiples of 16"
            )
        if self.head != "mean":
            raise ValueError(f"model.head={self.head}: allowed for model.arch=dg_p3d, which has its own two, is mean")

    def _check_pathways(self) -> None:
        if not self.is_custom and (self.arch == "vpsn" or self.arch.startswith("rf_")):
            raise ValueError(f"model.arch={self.arch}: allowed for model.head={self.head} is one without synthesizers")
        frames = self.pathway_frames
        if not frames or not all(1 <= count <= self.num_segments for count in frames):
            raise ValueError(
                f"model.pathway_frames={list(frames)}: allowed are 1 to {self.num_segments} frames (model.num_segments)"
            )
        if self.levels and len(frames) != len(self.levels) + 1:
            names = ", ".join(level for level, _ in self.levels)
            raise ValueError(
                f"model.pathway_frames={list(frames)}: allowed are {len(self.levels) + 1} numbers, for the levels "
                f"{names} and the classes"
            )
