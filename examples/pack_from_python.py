"""Packing from Python, with records made in Python: a folder of class folders becomes two splits.

    python examples/pack_from_python.py videos shards

takes VIDEOS/CLASS/FILE.mp4 and sets every fourth video of a class aside. With seven and six videos in two folders:

    shards/train: 11 samples, 0 failures, fingerprint fbbdccf2d7c4ac05
    even 6, odd 5
    shards/val: 2 samples, 0 failures, fingerprint 9d599968210e5530
    even 1, odd 1
"""

import argparse
from pathlib import Path

from sharding import Annotations, PackConfig, VideoRecord, measure, pack, verify


def list_split(videos: Path, split: str) -> Annotations:
    """Return the records of one split; the classes, and so their label ids, are those of both."""
    classes = tuple(sorted(folder.name for folder in videos.iterdir() if folder.is_dir()))
    records = []
    for label in classes:
        for number, path in enumerate(sorted((videos / label).glob("*.mp4"))):
            if (number % 4 == 3) == (split == "val"):
                key = f"{label}-{number:05d}"  # letters, digits, "_" and "-"; unique in the dataset
                records.append(VideoRecord(key, source=path.relative_to(videos).as_posix(), label=label))
    return Annotations(records, classes)


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack one folder of class folders as two splits.")
    parser.add_argument("videos", type=Path, help="folder that holds a folder for each class")
    parser.add_argument("out", type=Path, help="folder for the splits train and val")
    options = parser.parse_args()

    for split in ("train", "val"):
        config = PackConfig("my-videos", options.videos, options.out, split=split)  # the dataset's name is free
        result = pack(config, list_split(options.videos, split))
        report = verify(result.directory, decode=True)
        assert report.ok, report.problems
        stats, _ = measure(result.directory)
        failures, fingerprint = result.failures, result.fingerprint[:16]
        print(f"{result.directory}: {result.samples} samples, {failures} failures, fingerprint {fingerprint}")
        print(", ".join(f"{each.name} {each.samples}" for each in stats.classes))


if __name__ == "__main__":
    main()
