"""What is trained on: lists, packed sets, clips forward and reversed, generated motion. What is there already stays.

Actions are packed from the files themselves. For directions the stored pictures of each clip are written out as JPEG
files, once in order and once in the reverse order, and both folders are packed without encoding anything again: of the
two clips every picture is the same to the last byte, and only their order differs.
"""

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from launch.studies.commands import run_logged
from launch.studies.real.clips import read_clips, write_list
from launch.studies.real.rows import DIRECTIONS, MOTION, PACKING, PRETRAINING, Row, VideoSet, packed_split
from pipeline.reading import read_packets
from sharding.dataset import PackedDataset, load_dataset
from sharding.files import new_folder

SHARDING = (sys.executable, "-m", "sharding")
_SEGMENTS = 8  # frames of a clip in launch/configs/real/real_folds.yaml


def prepare(rows: Iterable[Row], data: Path, out: Path) -> None:
    """Pack what the rows are trained on."""
    rows = list(rows)
    for videos in {row.videos.name: row.videos for row in rows}.values():
        pack_actions(videos, data, out)
        if any(row.experiment.task == "direction" for row in rows if row.videos == videos):
            pack_directions(videos, out)


def pack_actions(videos: VideoSet, data: Path, out: Path) -> None:
    """Write the list of a set and pack it."""
    split = packed_split(out, "action", videos.name)
    if _is_packed(split):
        return
    annotations = out / "lists" / f"{videos.name}.txt"
    write_list(read_clips(data, videos), annotations)
    source = ["--dataset=list", f"--videos={data / videos.folder}", f"--annotations={annotations}"]
    _pack(source, split)


def pack_directions(videos: VideoSet, out: Path) -> None:
    """Pack the clips of a set, which is packed, forward and reversed."""
    split = packed_split(out, "direction", videos.name)
    if _is_packed(split):
        return
    frames = out / "frames" / videos.name
    shutil.rmtree(frames, ignore_errors=True)
    write_both_directions(load_dataset(packed_split(out, "action", videos.name)), frames)
    _pack(["--dataset=folder", f"--videos={frames}"], split)
    shutil.rmtree(frames)


def write_both_directions(dataset: PackedDataset, folder: Path) -> None:
    """Write folder/forward/KEY/00001.jpg … and folder/reversed/KEY/00001.jpg … for each sample."""
    with new_folder(folder) as new:
        for sample_id in range(len(dataset)):
            frames = symmetric_frames(int(dataset.num_frames[sample_id]))
            chosen = [picture for _, picture in read_packets(dataset, sample_id, frames)]
            for direction, ordered in zip(DIRECTIONS, (chosen, chosen[::-1])):
                clip = new / direction / dataset.key(sample_id)
                clip.mkdir(parents=True)
                for number, picture in enumerate(ordered, 1):
                    (clip / f"{number:05d}.jpg").write_bytes(picture)


def symmetric_frames(num_frames: int) -> np.ndarray:
    """Return which of the stored frames are kept, evenly spaced: an odd multiple of 8 of them, at most 40.

    The middle frames of 8 segments, which a test looks at, are then the same pictures in both directions, and a network
    that is blind to their order gives both the same scores. Of fewer than 8 frames all are kept.

    >>> len(symmetric_frames(39)), len(symmetric_frames(40))
    (24, 40)
    """
    fitting = [count for count in (5 * _SEGMENTS, 3 * _SEGMENTS, _SEGMENTS) if count <= num_frames]
    count = fitting[0] if fitting else num_frames
    return (2 * np.arange(count) + 1) * num_frames // (2 * count)


def pretrain(network: str, out: Path, environment: dict[str, str]) -> None:
    """Train a network on generated motion; what was begun resumes."""
    run, done = out / "pretraining" / network, out / "pretraining" / f"{network}.done"
    if done.exists():
        return
    train = [sys.executable, "launch/train.py", f"--config={PRETRAINING}", f"--model.arch={network}", "--resume"]
    paths = [f"--data.train={out / 'motion' / 'packed' / 'train'}", f"--run_dir={run}"]
    run.mkdir(parents=True, exist_ok=True)
    run_logged([*train, *paths], environment, run / "study.log")
    done.touch()


def make_motion(out: Path) -> None:
    """Write and pack the generated videos."""
    split = out / "motion" / "packed" / "train"
    if _is_packed(split):
        return
    videos = out / "motion" / "videos"
    if not (videos / "train").exists():
        run_logged([*SHARDING, "motion", f"--out={videos}", "--split=train", *MOTION])
    _pack(["--dataset=folder", f"--videos={videos / 'train'}"], split)


def _pack(source: list[str], split: Path) -> None:
    run_logged([*SHARDING, "pack", *source, f"--split={split.name}", f"--out={split.parent}", *PACKING])


def _is_packed(split: Path) -> bool:
    return (split / "manifest.json").exists()
