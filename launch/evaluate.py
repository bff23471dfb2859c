"""Accuracy of a checkpoint on a packed split: each sample exactly once, over any number of ranks.

    deepspeed launch/evaluate.py --checkpoint runs/demo --data data/motion/packed/val
    deepspeed --num_gpus 8 launch/evaluate.py --checkpoint runs/k400/checkpoints/step-00150000 --data shards/k400/val

Writes evaluation.json and confusion.png.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

from launch.checkpoints import find_checkpoint, load_checkpoint
from launch.engine import start_ranks, stop_ranks
from launch.metrics import Evaluation, evaluate
from launch.visualize import draw_confusion
from model import freeze
from pipeline.config import Decoder
from pipeline.loader import VideoLoader
from sharding.commandline import CommandLine, UserError, run_command
from sharding.manifest import PackedDataset, load_dataset


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    checkpoint = find_checkpoint(options.checkpoint)
    net, info, config = load_checkpoint(checkpoint)
    dataset = load_dataset(options.data)
    if dataset.manifest.classes != info.classes:
        raise UserError(f"{options.data}: its classes are not those that {checkpoint} was trained on")
    ranks = start_ranks()
    loader = VideoLoader(
        dataset,
        replace(config.data, decoder=options.decoder),
        training=False,
        micro_batch_size=options.batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        device=ranks.device,
    )
    evaluation = evaluate(freeze(net).to(ranks.device), loader, len(info.classes), config.train.precision)
    if ranks.is_first:
        out = options.out or checkpoint / f"evaluation-{dataset.manifest.split}"
        write_evaluation(evaluation, dataset, checkpoint, out)
        print(evaluation)
        print(f"data {options.data}, fingerprint {dataset.fingerprint[:16]}; written to {out}")
    loader.close()
    stop_ranks()


def write_evaluation(evaluation: Evaluation, dataset: PackedDataset, checkpoint: Path, out: Path) -> None:
    """Writes evaluation.json, with which data it was and how many samples were seen, and confusion.png."""
    out.mkdir(parents=True, exist_ok=True)
    values = asdict(evaluation) | {
        "confusion": evaluation.confusion.tolist(),
        "classes": dataset.manifest.classes,
        "checkpoint": str(checkpoint),
        "data": str(dataset.directory),
        "fingerprint": dataset.fingerprint,
        "samples_in_data": len(dataset),
        "quarantined": len(dataset.quarantined),
    }
    temporary = out / ".evaluation.json"
    temporary.write_text(json.dumps(values, indent=1) + "\n")
    temporary.replace(out / "evaluation.json")
    draw_confusion(evaluation.confusion.numpy(), dataset.manifest.classes, out / "confusion.png")


def _parser() -> CommandLine:
    parser = CommandLine(prog="launch/evaluate.py", description="Accuracy of a checkpoint on a packed split.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="Run folder (its best) or checkpoint.")
    parser.add_argument("--data", type=Path, required=True, help="Folder of the packed split, with manifest.json.")
    parser.add_argument("--batch_size", type=int, default=16, help="Clips per forward pass on each rank.")
    parser.add_argument("--decoder", type=Decoder, default="auto", help="Decode node: pyav, nvdec or auto.")
    parser.add_argument("--out", type=Path | None, default=None, help="Folder for results; default: in the checkpoint.")
    parser.add_argument("--local_rank", type=int, default=0, help="Set by the launcher.")
    return parser


if __name__ == "__main__":
    run_command(main, "launch/evaluate.py")
