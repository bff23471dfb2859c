"""What the controlled experiment compares: its videos, its rows, and for how long they are trained."""

from dataclasses import dataclass
from pathlib import Path

CONFIG = Path("launch/configs/ablation/experiment.yaml")
DATA, RUNS, RESULTS = Path("data/experiment"), Path("runs/experiment"), Path("docs/experiment")
NUM_SIZES = 2
VIDEOS = (
    "--num_classes=16",
    f"--num_sizes={NUM_SIZES}",
    "--radius=[0.036,0.288]",  # a factor of 8
    "--travel=[0.2,1.2]",  # speeds: a factor of 6
    "--growth=[1.19,2.8]",  # of the logarithm
    "--turn_degrees=[60,360]",
    "--num_distractors=1",
    "--noise=5",
)
SPLITS = {"train": ("--seed=0", "--num_videos=4800"), "val": ("--seed=1", "--num_videos=1200")}
TUNED_RATES = (0.003, 0.01)
TUNING_SEED = 100  # of no row


@dataclass(frozen=True)
class Row:
    """A network of the experiment."""

    name: str
    title: str
    options: tuple[str, ...]
    """What it has next to the configuration that all share."""
    published: float | None = None
    """Top-1 in % on Something-Something v1 in the paper, of ResNet-50 at 112 x 112 but for the rows of 16 frames."""
    table: str = ""
    """Of the paper."""


def _vpsn(name: str, title: str, published: float | None, table: str, *options: str) -> Row:
    return Row(name, title, ("--model.arch=vpsn", *options), published, table)


def _of(arch: str, title: str, published: float, *options: str) -> Row:
    return Row(arch, title, (f"--model.arch={arch}", *options), published, "1")


_INTERACTION, _CAPACITY = "--loss.interaction=0.01", "--loss.capacity=0.001"
_SIXTEEN = "--data.num_segments=16"

ROWS = {
    row.name: row
    for row in (
        _of("tsn", "TSN", 14.90),
        _of("tsm", "TSM", 42.11),
        _of("gst", "GST", 42.36),
        _of("rf_s", "RF-S", 43.72, f"--model.synthesizer.proportion={1 / 6:.6f}"),
        _of("rf_l", "RF-L", 43.67, f"--model.synthesizer.proportion={1 / 8}"),
        Row("rf_l_inception", "RF-L-Inception; VPSN, grouping", ("--model.arch=rf_l_inception",), 43.84, "1, 2"),
        _of("rf_l_inception_t", "RF-L-Inception-T", 44.23),
        _vpsn("vpsn", "VPSN, learned fusion, no losses", 45.44, "1, 2, 3"),
        _vpsn("vpsn_dropout", "VPSN, channel dropout", 44.64, "2", "--model.synthesizer.fusion=dropout"),
        _vpsn("vpsn_shuffle", "VPSN, shuffle", 45.01, "2", "--model.synthesizer.fusion=shuffle"),
        _vpsn("vpsn_interaction", "VPSN, L_int", 46.12, "2", _INTERACTION),
        _vpsn("vpsn_capacity", "VPSN, L_cap", 45.88, "2", _CAPACITY),
        _vpsn("vpsn_both", "VPSN, both losses", 46.41, "2", _INTERACTION, _CAPACITY),
        _vpsn(
            "vpsn_both_normalised",
            "VPSN, both, L_int normalised",
            None,
            "",
            _INTERACTION,
            _CAPACITY,
            "--model.synthesizer.interaction_norm=mean",
        ),
        _vpsn("vpsn_no_pool", "VPSN, without max-pool", 44.19, "3", "--model.synthesizer.pooling=none"),
        _vpsn("vpsn_no_relu", "VPSN, without inter-ReLU", 44.65, "3", "--model.synthesizer.inter_relu=false"),
        _vpsn("vpsn_no_dilation", "VPSN, without dilation", 45.54, "3", "--model.synthesizer.dilation=false"),
        Row("tsn_16f", "TSN, 16 frames", ("--model.arch=tsn", _SIXTEEN)),
        Row("tsm_16f", "TSM, 16 frames", ("--model.arch=tsm", _SIXTEEN)),
        _vpsn("vpsn_16f", "VPSN, 16 frames", None, "", _SIXTEEN),
    )
}


@dataclass(frozen=True)
class Budget:
    """For how long rows are trained."""

    name: str
    num_steps: int
    options: tuple[str, ...]
    """What it has next to the configuration that all share."""
    rows: tuple[str, ...]
    folder: str
    """Of its results and runs, below those of the experiment."""


SHORT = Budget("short", 300, (), tuple(ROWS), "")
LONG = Budget(
    "long",
    1500,
    ("--train.epochs=5",),
    ("tsn", "tsm", "rf_l_inception", "vpsn", "vpsn_both", "vpsn_both_normalised", "vpsn_no_pool"),
    "long",
)
BUDGETS = {each.name: each for each in (SHORT, LONG)}
