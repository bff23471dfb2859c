"""Pictures of runs, networks and data.

    python launch/visualize.py curves       RUN                  # loss, accuracy and learning rate -> RUN/curves.png
    python launch/visualize.py confusion    EVALUATION.json      # confusion matrix -> beside the file
    python launch/visualize.py synthesizers CHECKPOINT           # ||T_ij||_1 -> CHECKPOINT/synthesizers.png
    python launch/visualize.py gradcam      CHECKPOINT VIDEO     # what a class rests on -> VIDEO-gradcam.png, here
    python launch/visualize.py frames       DATASET              # where frames are sampled -> frames.png, here

--out FILE.png writes the picture somewhere else.
"""

import json
from pathlib import Path
from typing import Literal

import numpy as np

from launch.visualization.plots import draw_confusion, draw_curves, draw_frames, draw_synthesizers
from sharding.cli import CommandLine, run_command
from sharding.dataset import load_dataset
from sharding.errors import UserError, check_minimum
from sharding.files import check_writable

Stage = Literal["layer1", "layer2", "layer3", "layer4"]

MOST_VIDEOS = 2000
"""Of a dataset, whose frames are sampled for a picture."""

__all__ = ["draw_confusion", "draw_curves", "main"]


def curves(options) -> Path:
    return draw_curves(options.run, _target(options.out or options.run / "curves.png"))


def confusion(options) -> Path:
    path = options.evaluation
    try:
        values = json.loads(path.read_text())
        counts, classes = np.array(values["confusion"], float), list(values["classes"])
        if counts.shape != (len(classes), len(classes)):
            raise ValueError(f"a confusion matrix of shape {counts.shape} for {len(classes)} classes")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not an evaluation.json of launch/evaluate.py: {error}") from error
    return draw_confusion(counts, classes, _target(options.out or path.with_name("confusion.png")))


def synthesizers(options) -> Path:
    from launch.training.builders import build_network
    from launch.training.checkpoint import load_checkpoint

    net, _, config = load_checkpoint(options.checkpoint)
    norms = _fusion_norms(net)
    if not norms:
        raise UserError(f"{options.checkpoint}: its network, model.arch={config.model.arch}, has no synthesizers")
    target = _target(options.out or options.checkpoint / "synthesizers.png")
    title = f"{config.model.arch}-{config.model.depth}, {options.checkpoint}"
    start = _fusion_norms(build_network(config)) if options.relative_to_init else None
    return draw_synthesizers(norms, config.model.synthesizer, title, target, start)


def _fusion_norms(net) -> dict[str, np.ndarray]:
    return {name: net.synthesizers[name].fusion_norms().detach().numpy() for name in net.synthesizer_names}


def gradcam(options) -> Path:
    from launch.training.checkpoint import load_checkpoint
    from launch.visualization.gradcam import check_class, draw_gradcam, require_captum
    from sharding.errors import MediaError
    from sharding.video.decode import probe

    require_captum()
    try:
        probe(options.video)
    except MediaError as error:
        raise UserError(f"{options.video}: {error.message}") from error
    target = _target(options.out or Path(f"{options.video.stem}-gradcam.png"))
    net, info, config = load_checkpoint(options.checkpoint)
    check_class(options.class_name, info.classes)
    return draw_gradcam(net, info, config, options.video, target, options.class_name, options.stage)


def frames(options) -> Path:
    check_minimum(options, 1, "num_segments", "epochs", prefix="--")
    dataset = load_dataset(options.dataset)
    target = _target(options.out or Path("frames.png"))
    if not len(dataset):
        raise UserError(f"{options.dataset}: not one video in it")
    chosen = dataset.num_frames[:: -(-len(dataset) // MOST_VIDEOS)]
    title = f"{options.dataset}: {len(chosen):,} videos of {chosen.min()} to {chosen.max()} stored frames"
    return draw_frames(chosen, options.num_segments, options.epochs, title, target)


def _target(path: Path) -> Path:
    if path.suffix.lower() != ".png":
        raise UserError(f"--out {path}: use a name that ends in .png")
    check_writable(path)
    return path


COMMANDS = {function.__name__: function for function in (curves, confusion, synthesizers, gradcam, frames)}


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    print(COMMANDS[options.subcommand](options[options.subcommand]))


def _parser() -> CommandLine:
    parser = CommandLine(prog="launch/visualize.py", description="Draws pictures of runs, networks and data.")
    commands = parser.add_subcommands()
    for name, build in _PARSERS.items():
        command = build()
        command.add_argument("--out", type=Path | None, default=None, help="Picture to write, NAME.png.")
        commands.add_subcommand(name, command)
    return parser


def _curves_parser() -> CommandLine:
    parser = CommandLine(description="Loss, accuracy and learning rate of a run, as RUN/curves.png.")
    parser.add_argument("run", type=Path, help="Run folder.")
    return parser


def _confusion_parser() -> CommandLine:
    parser = CommandLine(description="The confusion matrix of an evaluation, as confusion.png beside the file.")
    parser.add_argument("evaluation", type=Path, help="evaluation.json that launch/evaluate.py wrote.")
    return parser


def _synthesizers_parser() -> CommandLine:
    description = "How strongly each spatial kernel feeds each temporal one, as CHECKPOINT/synthesizers.png."
    parser = CommandLine(description=description)
    parser.add_argument("checkpoint", type=Path, help="Run folder (its best) or checkpoint.")
    start_help = "Instead, by how many percent training changed them, from the initial weights of the run's seed."
    parser.add_argument("--relative_to_init", type=bool, default=False, help=start_help)
    return parser


def _gradcam_parser() -> CommandLine:
    parser = CommandLine(description="What in each sampled frame speaks for a class, as VIDEO-gradcam.png here.")
    parser.add_argument("checkpoint", type=Path, help="Run folder (its best) or checkpoint.")
    parser.add_argument("video", type=Path, help="Video file.")
    class_help = "Class to explain; default: the most probable one."
    parser.add_argument("--class_name", type=str | None, default=None, help=class_help)
    stage_help = "Stage at whose end to look; earlier ones are finer, and mean less."
    parser.add_argument("--stage", type=Stage, default="layer4", help=stage_help)
    return parser


def _frames_parser() -> CommandLine:
    parser = CommandLine(description="Where in the videos of a dataset frames are sampled, as frames.png here.")
    parser.add_argument("dataset", type=Path, help="Folder of the packed split, with manifest.json.")
    parser.add_argument("--num_segments", type=int, default=8, help="Frames per clip.")
    parser.add_argument("--epochs", type=int, default=10, help="Epochs of training to draw.")
    return parser


_PARSERS = {
    "curves": _curves_parser,
    "confusion": _confusion_parser,
    "synthesizers": _synthesizers_parser,
    "gradcam": _gradcam_parser,
    "frames": _frames_parser,
}


if __name__ == "__main__":
    run_command(main, "launch/visualize.py")
