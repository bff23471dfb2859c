"""All steps on generated videos: what `make demo` runs. Every step is a command a user would type, shown first.

python -m launch.demo      # videos and shards in data/demo, the run in runs/demo; begun again, it resumes
"""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from sharding.cli import CommandLine, run_command

DATA, RUN = Path("data/demo"), Path("runs/demo")
VIDEOS, PACKED = DATA / "videos", DATA / "packed"
NUM_VIDEOS = {"train": 1600, "val": 400}


def main(arguments: list[str] | None = None) -> None:
    CommandLine(prog="launch/demo.py", description=(__doc__ or "").splitlines()[0]).parse_args(arguments)
    from launch.training.distributed import free_port  # torch, once it is known that the demo is wanted

    began = time.monotonic()
    sharding = [sys.executable, "-m", "sharding"]
    launcher = str(Path(sys.executable).with_name("deepspeed"))
    for split, num_videos in NUM_VIDEOS.items():
        if not (VIDEOS / split).exists():
            run([*sharding, "motion", f"--out={VIDEOS}", f"--split={split}", f"--num-videos={num_videos}"])
    for split in NUM_VIDEOS:
        pack = [*sharding, "pack", "--dataset=folder", f"--videos={VIDEOS / split}", f"--split={split}"]
        run([*pack, f"--out={PACKED}"])
        run([*sharding, "verify", str(PACKED / split)])
    deepspeed = [launcher, f"--master_port={free_port()}"]  # another job may have DeepSpeed's own
    run([*deepspeed, "launch/train.py", "--config=launch/configs/demo/demo.yaml", "--resume"])
    run([*deepspeed, "launch/evaluate.py", f"--checkpoint={RUN}", f"--data={PACKED / 'val'}", f"--out={RUN}"])
    video = next((VIDEOS / "val" / "turn_clockwise").glob("*.mp4"))
    run([sys.executable, "launch/predict.py", f"--checkpoint={RUN}", str(video)])
    run([sys.executable, "launch/visualize.py", "curves", str(RUN)])
    print(summary(time.monotonic() - began))


def run(command: list[str]) -> None:
    """Show and run a command; end the demo with its exit code if it fails."""
    shown = [Path(command[0]).name, *command[1:]]
    print(f"\n$ {shlex.join(shown)}", flush=True)
    code = subprocess.run(command).returncode
    if code:
        sys.exit(code)


def summary(seconds: float) -> str:
    """Return what the demo came to, from the files it left."""
    from launch.training.run_log import read_metrics

    evaluation = json.loads((RUN / "evaluation.json").read_text())
    steps = [line for line in read_metrics(RUN) if line["kind"] == "train"]
    clips_per_second = sum(line["clips_per_second"] for line in steps) / len(steps)
    loading = sum(line["loading_share"] for line in steps) / len(steps)
    return (
        f"\ntop-1 {evaluation['top1']:.2%} on {evaluation['samples']} validation videos of "
        f"{len(evaluation['classes'])} motions\n"
        f"training at {clips_per_second:.0f} clips/s: {loading:.1%} of the time waiting for data, "
        f"{1 - loading:.1%} computing\n"
        f"pictures: {RUN / 'curves.png'}, {RUN / 'confusion.png'}; figures: {RUN / 'metrics.jsonl'}, "
        f"tensorboard --logdir {RUN}\n"
        f"{seconds / 60:.1f} minutes in all"
    )


if __name__ == "__main__":
    run_command(main, "launch/demo.py")
