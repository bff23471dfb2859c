"""Pictures of runs, networks and data.

    python launch/visualize.py report       RUN                  # all of it on one page -> RUN/report.html
    python launch/visualize.py curves       RUN                  # loss, accuracy and learning rate -> RUN/curves.png
    python launch/visualize.py confusion    RUN                  # of its newest evaluation -> next to its file
    python launch/visualize.py precision    RUN                  # of each class, where videos have several labels
    python launch/visualize.py reliability  RUN                  # confidence against accuracy -> next to its file
    python launch/visualize.py synthesizers CHECKPOINT           # ||T_ij||_1 -> CHECKPOINT/synthesizers.png
    python launch/visualize.py gradcam      CHECKPOINT VIDEO     # what a class rests on -> VIDEO-gradcam.png, here
    python launch/visualize.py frames       DATASET              # where frames are sampled -> frames.png, here
    python launch/visualize.py clips        CONFIG.yaml          # what training sees, augmented -> clips.png, here

--out FILE.png (of a report FILE.html) writes it somewhere else.
"""

from pathlib import Path
from typing import Literal

from sharding.cli import CommandLine, run_command
from sharding.errors import UserError

_MOST = 10_000
"""Of whatever is drawn or counted."""
Stage = Literal["layer1", "layer2", "layer3", "layer4"]


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    command = options.command
    values = options[command].as_dict()
    for name, least in (("num_segments", 1), ("epochs", 1), ("num_clips", 1), ("mistakes", 0)):
        if values.get(name, least) < least:
            raise UserError(f"--{name.replace('_', '-')} {values[name]}: use {least} or more")
        if values.get(name, least) > _MOST:
            raise UserError(f"--{name.replace('_', '-')} {values[name]}: use {least} to {_MOST}")
    from launch.visualization import pictures  # matplotlib and torch, once the options are known to be right

    print(getattr(pictures, command)(**values))


def _parser() -> CommandLine:
    parser = CommandLine(prog="launch/visualize.py", description="Draw pictures of runs, networks and data.")
    commands = parser.add_subcommands(required=True, dest="command")
    for name, (summary, add_options) in _COMMANDS.items():
        command = CommandLine(description=summary, renamed={"since_start": "relative-to-init"})
        add_options(command)
        what = "Page to write, NAME.html." if name == "report" else "Picture to write, NAME.png."
        command.add_argument("--out", type=Path | None, default=None, help=what)
        parser.add_command(commands, name, command, summary)
    return parser


def _add_report(parser: CommandLine) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="Run folder; its training may still be running.")
    evaluation_help = "Evaluation to show, evaluation.json or its folder; default: the run's newest."
    parser.add_argument("--evaluation", type=Path | None, default=None, help=evaluation_help)
    data_help = "Folder of the split that was evaluated, for the frames of its videos; default: where it was then."
    parser.add_argument("--data", type=Path | None, default=None, help=data_help)
    parser.add_argument("--mistakes", type=int, default=24, help="Videos to show that were certain and wrong.")


def _add_curves(parser: CommandLine) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="Run folder.")


def _add_confusion(parser: CommandLine) -> None:
    evaluation_help = "Run folder (its newest evaluation), or an evaluation.json that launch/evaluate.py wrote."
    parser.add_argument("evaluation", type=Path, metavar="RUN", help=evaluation_help)


def _add_synthesizers(parser: CommandLine) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="Run folder (its best) or checkpoint.")
    start_help = "Instead, by how many percent training changed them, from the initial weights of the run's seed."
    parser.add_argument("--relative-to-init", action="store_true", help=start_help)


def _add_gradcam(parser: CommandLine) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="Run folder (its best) or checkpoint.")
    parser.add_argument("video", type=Path, metavar="VIDEO", help="Video file.")
    class_help = "Class to explain; default: the most probable one."
    parser.add_argument("--class-name", type=str | None, default=None, help=class_help)
    stage_help = "Stage at whose end to look; earlier ones are finer, and mean less."
    parser.add_argument("--stage", type=Stage, default="layer4", help=stage_help)


def _add_frames(parser: CommandLine) -> None:
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="Folder of the packed split, with manifest.json.")
    parser.add_argument("--num-segments", type=int, default=8, help="Frames per clip.")
    parser.add_argument("--epochs", type=int, default=10, help="Epochs of training to draw.")


def _add_clips(parser: CommandLine) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="Configuration of a training, or a run folder.")
    parser.add_argument("--num-clips", type=int, default=6, help="Clips to draw.")


_COMMANDS = {
    "report": ("A run on one page: curves, classes, confusions, mistakes, data, configuration.", _add_report),
    "curves": ("Loss, accuracy and learning rate of a run, as RUN/curves.png.", _add_curves),
    "confusion": ("The confusion matrix of an evaluation, as confusion.png next to its file.", _add_confusion),
    "precision": (
        "The average precision of each class of an evaluation, as average_precision.png next to its file.",
        _add_confusion,
    ),
    "reliability": (
        "Accuracy against confidence of an evaluation, as reliability.png next to its file.",
        _add_confusion,
    ),
    "synthesizers": (
        "How strongly each spatial kernel feeds each temporal one, as CHECKPOINT/synthesizers.png.",
        _add_synthesizers,
    ),
    "gradcam": ("What in each sampled frame speaks for a class, as VIDEO-gradcam.png here.", _add_gradcam),
    "clips": ("Training clips as the network sees them, with what was drawn for each, as clips.png here.", _add_clips),
    "frames": ("Where in the videos of a dataset frames are sampled, as frames.png here.", _add_frames),
}


if __name__ == "__main__":
    run_command(main, "launch/visualize.py")
