"""A split without labels, as benchmarks' test splits: packed, described and checked, and with no label anywhere."""

import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.pack import PackConfig, pack
from sharding.records import Annotations, VideoRecord, check_records
from sharding.stats import measure, to_text
from sharding.stats_page import to_page
from sharding.verify import verify
from tests.conftest import run_command
from tests.helpers.videos import write_numbered_video

CLASSES = ("run", "walk")
LEVELS = (("pace", ("fast", "slow")),)


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Path:
    """Three videos packed without labels, one of which was mended after it had failed; a fourth is missing."""
    folder = tmp_path_factory.mktemp("unlabelled")
    for number in (1, 2):
        write_numbered_video(folder / "videos" / f"{number}.mp4", 6)
    (folder / "videos" / "3.mp4").write_bytes(b"no video")
    records = [VideoRecord(str(number), f"{number}.mp4", None) for number in (1, 2, 3, 4)]
    annotations = Annotations(records, CLASSES, levels=LEVELS)
    config = PackConfig("mine", folder / "videos", folder / "out", "test", workers=1, max_failures=1.0)
    assert pack(config, annotations).failures == 2
    write_numbered_video(folder / "videos" / "3.mp4", 6)
    assert pack(replace(config, retry_failed=True), annotations).failures == 1
    return folder / "out" / "test"


def test_no_label_is_in_it(split):
    dataset = load_dataset(split)
    assert not dataset.has_labels and dataset.label_names(0) == ()
    assert (dataset.labels.tolist(), dataset.level_labels["pace"].tolist()) == ([-1] * 3, [-1] * 3)
    assert (dataset.manifest.classes, dataset.manifest.format_version) == (CLASSES, 3)
    with tarfile.open(dataset.shard_path(0)) as tar:
        assert sorted(tar.getnames()) == [f"{key}.{suffix}" for key in "123" for suffix in ("json", "mp4")]
        about = json.load(tar.extractfile("1.json"))
    assert not [name for name in about if "label" in name]
    (failure,) = map(json.loads, (split / "failures.jsonl").read_text().splitlines())
    assert (failure["key"], failure["kind"], failure["label"]) == ("4", "missing", None)


def test_verify_and_stats_say_so(split):
    assert verify(split, decode=True).ok
    done = run_command([sys.executable, "-m", "sharding", "verify", split, "--workers=1"])
    assert f"{split}: 3 samples without labels in 1 shards checked, 0 bad samples" in done.stdout
    stats, dataset = measure(split)
    text = to_text(stats)
    assert "labels       none: for predictions alone, of 2 classes" in text and "without any" not in text
    assert json.loads(stats.to_json())["has_labels"] is False
    assert "without labels" in to_page(stats, dataset)


def test_all_or_none_have_labels():
    some = [VideoRecord("a", "a.mp4", None), VideoRecord("b", "b.mp4", "run")]
    with pytest.raises(UserError, match=r"b\.mp4: has a label, but a\.mp4 has none"):
        check_records(Annotations(some, CLASSES))
    with pytest.raises(UserError, match=r"label None is no text"):
        check_records(Annotations(some[::-1], CLASSES))
    with pytest.raises(UserError, match=r"no labels, so the classes must come from elsewhere"):
        check_records(Annotations(some[:1], ()))


def test_a_published_form_from_the_command_line(tmp_path):
    """As the test split of Kinetics: no column `label`; the classes are those of the other files, or of --classes."""
    write_numbered_video(tmp_path / "videos" / "abcdefghijk_000017_000027.mp4", 6)
    (tmp_path / "val.csv").write_text("label,youtube_id,time_start,time_end,split\nrun,x,1,2,val\nwalk,y,1,2,val\n")
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end,split\nabcdefghijk,17,27,test\n")
    (tmp_path / "names.txt").write_text("run\nwalk\n")
    command = [sys.executable, "-m", "sharding", "pack", "--dataset=kinetics", f"--videos={tmp_path / 'videos'}"]
    command += ["--split=test", f"--out={tmp_path / 'out'}", "--workers=1", "--annotations", tmp_path / "test.csv"]
    done = run_command(command)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1) and "--classes FILE" in done.stderr
    assert not (tmp_path / "out").exists()
    done = run_command([*command, f"--classes={tmp_path / 'names.txt'}"])
    assert done.returncode == 0, done.stderr
    assert "the videos of test have no labels; predictions alone can be made" in done.stderr
    again = run_command([*command, tmp_path / "val.csv"])
    assert "already complete, 1 samples" in again.stdout, again.stderr  # the same classes, however they were given
