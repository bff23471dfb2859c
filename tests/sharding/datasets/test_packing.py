"""What readers say of flips, trims and levels, as it lies in the packed dataset; frame i of a video shows number i."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharding import datasets
from sharding.dataset import PackedDataset, load_dataset
from sharding.pack import PackConfig, pack
from sharding.video.decode import decode_frames
from tests.helpers.videos import draw_number, read_number, write_numbered_video


def packed(dataset: str, videos: Path, annotations: list[Path], out: Path, **options) -> PackedDataset:
    config = PackConfig(dataset, videos, out, annotations=tuple(annotations), workers=1, **options)
    pack(config)
    return load_dataset(config.directory)


def numbers(dataset: PackedDataset, key: str) -> list[int]:
    """What the frames of a sample show, decoded from its bytes in the shard."""
    (sample,) = np.flatnonzero(dataset.keys == key)
    frames = decode_frames(media_of(dataset, sample), np.arange(dataset.num_frames[sample]))
    return [read_number(frame) for frame in frames]


def media_of(dataset: PackedDataset, sample: int) -> bytes:
    with dataset.shard_path(dataset.shards[sample]).open("rb") as shard:
        shard.seek(dataset.media_offsets[sample])
        return shard.read(dataset.media_bytes[sample])


def test_finegym_cuts_and_levels(tmp_path: Path) -> None:
    """At 25 frames/s, seconds 2 + [0.4, 0.8) of a whole video are frames 60 to 69, and of the event's clip 10 to 19."""
    videos = tmp_path / "videos"
    write_numbered_video(videos / "whole.mp4", 90)
    write_numbered_video(videos / "other_E_000007_000009.mp4", 40)
    event = {"event": 3, "segments": {"A_0000_0001": {"stages": 1, "timestamps": [[0.4, 0.8]]}}}
    files = {
        "finegym_annotation_info_v1.1.json": json.dumps(
            {
                "whole": {"E_000002_000003": event | {"timestamps": [[2.0, 3.5]]}},
                "other": {"E_000007_000009": event | {"timestamps": [[7.0, 9.0]]}},
            }
        ),
        "gym99_train_element_v1.1.txt": "whole_E_000002_000003_A_0000_0001 1\nother_E_000007_000009_A_0000_0001 0\n",
        "gym99_categories.txt": "Clabel: 0; set: 1; Glabel: 3; (VT) salto\nClabel: 1; set: 31; Glabel: 5; (BB) leap\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    dataset = packed("finegym", videos, [tmp_path / name for name in files], tmp_path / "out")
    assert numbers(dataset, "whole_E_000002_000003_A_0000_0001") == list(range(60, 70))
    assert numbers(dataset, "other_E_000007_000009_A_0000_0001") == list(range(10, 20))
    levels = dataset.manifest.levels
    of_key = {key: number for number, key in enumerate(dataset.keys)}
    sample = of_key["whole_E_000002_000003_A_0000_0001"]
    assert dataset.manifest.classes[dataset.labels[sample]] == "(BB) leap"
    assert levels["event"][dataset.level_labels["event"][sample]] == "balance beam"
    assert levels["set"][dataset.level_labels["set"][sample]] == "31"


def test_something_flips(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    classes = ["Holding something", "Pushing something from left to right", "Pushing something from right to left"]
    entries = []
    for label, name in enumerate(classes):
        write_numbered_video(videos / f"{label}.webm", 6, fps=12, codec="libvpx-vp9")
        entries.append({"id": str(label), "template": name.replace("something", "[something]")})
    labels, train = tmp_path / "labels.json", tmp_path / "train.json"
    labels.write_text(json.dumps({name: str(label) for label, name in enumerate(classes)}))
    train.write_text(json.dumps(entries))
    dataset = packed("something-v2", videos, [labels, train], tmp_path / "out")
    assert dataset.manifest.flip_pairs == ((1, 2),)
    assert dataset.manifest.classes == tuple(classes)
    assert {key: int(label) for key, label in zip(dataset.keys, dataset.labels)} == {"0": 0, "1": 1, "2": 2}
    assert numbers(dataset, "2") == list(range(6))


@pytest.mark.parametrize("profile", ["h264", "jpeg"])
def test_something_v1_folders_of_frames(tmp_path: Path, profile: str) -> None:
    """Twelve frames, 00001.jpg to 00012.jpg, in their order; under jpeg they go in as they are."""
    video = tmp_path / "videos" / "100218"
    video.mkdir(parents=True)
    for number in range(12):
        Image.fromarray(draw_number(number, (96, 64))).save(video / f"{number + 1:05d}.jpg", quality=95)
    labels, train = tmp_path / "labels.csv", tmp_path / "train.csv"
    labels.write_text("Holding something\nPoking something\n")
    train.write_text("100218;Poking something\n")
    dataset = packed("something-v1", tmp_path / "videos", [labels, train], tmp_path / "out", profile=profile)
    assert (dataset.labels.tolist(), dataset.num_frames.tolist(), dataset.fps.tolist()) == ([1], [12], [12.0])
    if profile == "h264":
        assert numbers(dataset, "100218") == list(range(12))
    else:
        assert media_of(dataset, 0) == b"".join(frame.read_bytes() for frame in sorted(video.iterdir()))


def test_missing_videos_are_counted_not_fatal(tmp_path: Path) -> None:
    """One of twenty listed videos of HMDB51 is not there."""
    videos = tmp_path / "videos"
    names = [f"#{number}_wave_u_nm_np1_fr_goo_0.avi" for number in range(20)]
    for name in names[1:]:
        write_numbered_video(videos / "wave" / name, 3, codec="mpeg4")
    listed = tmp_path / "wave_test_split1.txt"
    listed.write_text("".join(f"{name} 1 \n" for name in names))
    dataset = packed("hmdb51", videos, [listed], tmp_path / "out")
    assert (len(dataset), dataset.manifest.failures) == (19, 1)
    (failure,) = [json.loads(line) for line in (tmp_path / "out/train/failures.jsonl").read_text().splitlines()]
    assert (failure["source"], failure["kind"]) == (f"wave/{names[0]}", "missing")


def test_every_reader_has_its_tests() -> None:
    modules = {path.name for path in Path(datasets.__file__).parent.glob("[!_]*.py")}
    assert {reader.__module__.rpartition(".")[2] + ".py" for reader in datasets.DATASETS.values()} <= modules
    assert {f"test_{name}" for name in modules} <= {path.name for path in Path(__file__).parent.iterdir()}
