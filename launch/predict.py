"""The classes of video files.

    python launch/predict.py --checkpoint runs/demo clip.mp4 another.webm
    python launch/predict.py --checkpoint runs/demo --json clip.mp4

The files go through exactly what the training data went through: they are packed, with the checkpoint's own settings,
into a temporary folder, and read from there by the loader that evaluation uses.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from launch.checkpoints import CheckpointInfo, load_checkpoint
from launch.config import Config
from launch.metrics import compute_logits
from launch.packing import file_number, pack_files
from model import freeze
from pipeline.loader import VideoLoader
from sharding.commandline import CommandLine, UserError, run_command
from sharding.manifest import load_dataset

BATCH_SIZE = 8


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    missing = [path for path in options.videos if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: no such file")
    net, info, config = load_checkpoint(options.checkpoint)
    net = freeze(net).to("cuda" if torch.cuda.is_available() else "cpu")
    results = predict(net, info, config, options.videos)
    top = min(options.top, len(info.classes))
    failed = False
    rows = []
    for path, result in zip(options.videos, results):
        row = {"video": str(path)}
        if isinstance(result, str):
            failed, row["error"] = True, result
        else:
            values, indices = result.softmax(0).topk(top)
            row["predictions"] = [
                {"class": info.classes[index], "probability": round(value, 6)}
                for value, index in zip(values.tolist(), indices.tolist())
            ]
        rows.append(row)
    print(json.dumps(rows, indent=1) if options.json else "\n".join(map(_describe, rows)))
    return 1 if failed else 0


def predict(
    net: torch.nn.Module, info: CheckpointInfo, config: Config, videos: Sequence[Path]
) -> list[torch.Tensor | str]:
    """For each file its logits (num_classes,) float32, or in words why it has none."""
    settings = {name: info.packing[name] for name in ("profile", "max_frames", "short_side", "quality")}
    with tempfile.TemporaryDirectory(prefix="vpsn-predict-") as folder:
        packed, failures = pack_files(videos, Path(folder), **settings)
        results: list[torch.Tensor | str] = [failures.get(index, "") for index in range(len(videos))]
        if len(failures) == len(videos):
            return results
        dataset = load_dataset(packed)
        device = next(net.parameters()).device
        data = replace(config.data, decoder="auto")
        loader = VideoLoader(dataset, data, training=False, micro_batch_size=BATCH_SIZE, device=device)
        for batch in loader:
            logits = compute_logits(net, batch.clips, config.train.precision).cpu()
            for sample_id, row in zip(batch.sample_ids.tolist(), logits):
                results[file_number(dataset.key(sample_id))] = row
        loader.close()
    return results


def _describe(row: dict) -> str:
    if "error" in row:
        return f"{row['video']}\n      failed: {row['error']}"
    lines = [f"  {prediction['probability']:6.1%}  {prediction['class']}" for prediction in row["predictions"]]
    return "\n".join([row["video"], *lines])


def _parser() -> CommandLine:
    parser = CommandLine(prog="launch/predict.py", description="The classes of video files.")
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help="Video files of any kind.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="Run folder (its best) or checkpoint.")
    parser.add_argument("--top", type=int, default=5, help="How many classes to show.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    return parser


if __name__ == "__main__":
    run_command(main, "launch/predict.py")
