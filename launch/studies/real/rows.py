"""What the study on real videos compares: sets, experiments, networks. A row is one of each, and a seed."""

from dataclasses import dataclass
from pathlib import Path

from launch.studies.ablation.rows import SPLITS, VIDEOS

CONFIG, PRETRAINING = Path("launch/configs/real/real_folds.yaml"), Path("launch/configs/real/real_pretraining.yaml")
RESULTS = Path("docs/real")
NETWORKS = {"tsn": "TSN", "tsm": "TSM", "gst": "GST", "vpsn": "VPSN"}
TRIED = (("sgd", 0.0025), ("sgd", 0.005), ("sgd", 0.01), ("adamw", 0.0001), ("adamw", 0.0003), ("adamw", 0.001))
TUNING_SEED = 100  # of no row
PACKING = ("--profile=jpeg", "--max-frames=40", "--short-side=72")
DIRECTIONS = ("forward", "reversed")
MOTION = (*SPLITS["train"], *VIDEOS)


@dataclass(frozen=True)
class VideoSet:
    """Clips that are tested by leaving groups of them out."""

    name: str
    title: str
    folder: str
    """Folder in --data that holds index.csv and the clips."""
    group: str
    """Column of index.csv that says which clips are left out together."""
    chance: float
    """Accuracy of guessing the action, of classes of equal size."""
    part: str = ""
    """Only the lines of index.csv with this value in the column `set`; empty: all."""


SETS = {
    each.name: each
    for each in (
        VideoSet("weizmann", "Weizmann", "weizmann", "person", 1 / 10),
        VideoSet("ut1", "UT-Interaction, set 1", "ut_interaction", "sequence", 1 / 6, "1"),
        VideoSet("ut2", "UT-Interaction, set 2", "ut_interaction", "sequence", 1 / 6, "2"),
    )
}
SOURCES = {
    "weizmann": "http://www.wisdom.weizmann.ac.il/~vision/SpaceTimeActions.html",
    "ut_interaction": "https://cvrc.ece.utexas.edu/SDHA2010/Human_Interaction.html (segmented_set1, segmented_set2)",
}
"""Where the files of each folder come from."""


@dataclass(frozen=True)
class Experiment:
    """A task, and how it is trained."""

    name: str
    title: str
    task: str = "action"
    """What is packed and predicted: action, or direction (forward or reversed)."""
    options: tuple[str, ...] = ()
    """What it has next to the configuration that all share."""
    networks: tuple[str, ...] = tuple(NETWORKS)
    sets: tuple[str, ...] = tuple(SETS)
    num_folds: int | None = None
    """None: a fold for each group; else so many, of groups that follow each other."""
    is_pretrained: bool = False
    """Whether training begins with weights pretrained on generated motion."""


EXPERIMENTS = {
    each.name: each
    for each in (
        Experiment("action", "Which action?"),
        # Twice as many clips, each forward and reversed: half of the epochs are as many steps.
        Experiment(
            "direction",
            "Forward or reversed? Pretrained on generated motion",
            "direction",
            ("--train.epochs=15", "--schedule.warmup_epochs=1"),
            is_pretrained=True,
        ),
        Experiment(
            "pretrained",
            "Which action? Pretrained on generated motion",
            networks=("tsn", "vpsn"),
            is_pretrained=True,
        ),
    )
}
TUNING = {
    each.name: each
    for each in (
        Experiment(  # half of the clips: half as many steps as a fold
            f"tune_{optimizer}_{rate:g}",
            f"{optimizer} {rate:g}",
            options=(f"--optimizer.name={optimizer}", f"--optimizer.learning_rate={rate}"),
            networks=("tsn", "vpsn"),
            sets=("ut2",),
            num_folds=2,
        )
        for optimizer, rate in TRIED
    )
}


@dataclass(frozen=True)
class Row:
    """All folds of a network on a set."""

    experiment: Experiment
    videos: VideoSet
    network: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.experiment.name}-{self.videos.name}-{self.network}-{self.seed}"

    @property
    def result(self) -> Path:
        return RESULTS / f"{self.name}.json"

    def folder(self, out: Path) -> Path:
        return out / "runs" / self.name

    def arguments(self, out: Path, with_weights: bool = True) -> list[str]:
        """Return the arguments with which `launch/train.py` would train on the clips of all folds together; without
        weights, as if it were not pretrained."""
        pretrained = [f"--model.pretrained={out / 'pretraining' / self.network}"]
        return [
            f"--config={CONFIG}",
            f"--data.train={packed_split(out, self.experiment.task, self.videos.name)}",
            f"--model.arch={self.network}",
            *self.experiment.options,
            f"--train.seed={self.seed}",
            *(pretrained if self.experiment.is_pretrained and with_weights else ()),
            f"--run_dir={self.folder(out)}",
        ]


def packed_split(out: Path, task: str, name: str) -> Path:
    """Return the folder of a packed set."""
    return out / "packed" / task / name


def find_row(experiment: str, videos: str, network: str, seed: int) -> Row:
    """Return the row of these names, which must be such."""
    return Row((EXPERIMENTS | TUNING)[experiment], SETS[videos], network, seed)
