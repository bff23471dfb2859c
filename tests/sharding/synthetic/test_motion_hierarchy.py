"""Motions on three levels in FineGym's layout: read by its reader, cut where they begin and end."""

from collections import defaultdict

import numpy as np
import pytest

from sharding.dataset import load_dataset
from sharding.datasets.finegym import read_finegym
from sharding.errors import UserError
from sharding.pack import PackConfig, pack
from sharding.records import check_records
from sharding.synthetic.motion_hierarchy import HIERARCHY, MotionGymConfig, plan_video, write_motion_gym
from sharding.synthetic.motion_paths import MOTIONS
from sharding.video.decode import decode_frames

SMALL = {"train_videos": 6, "val_videos": 2, "num_frames": 20, "size": 16, "workers": 1}


@pytest.fixture(scope="module")
def gym(tmp_path_factory):
    out = tmp_path_factory.mktemp("gym") / "gym"
    write_motion_gym(MotionGymConfig(out, **SMALL))
    return out


def annotations(gym):
    return sorted((gym / "annotations").iterdir())


def test_every_motion_is_one_element():
    elements = [motion for of_event in HIERARCHY.values() for motions in of_event.values() for motion in motions]
    assert sorted(elements) == sorted(MOTIONS)


def test_the_reader_of_finegym_finds_the_plan(gym):
    config = MotionGymConfig(gym, **SMALL)
    for split, count in (("train", 6), ("val", 2)):
        found = check_records(read_finegym(gym / "videos", annotations(gym), split))
        planned = [element for number in range(count) for element in plan_video(config, split, number)]
        assert len(found.classes) == 32
        assert [found.classes.index(record.label) for record in found.records] == [each.label for each in planned]
        # Eight elements a video; starts are those of the plan, in the video.
        assert [record.start_seconds for record in found.records[:8]] == [each.first_frame / 20 for each in planned[:8]]
    levels = dict(found.levels)
    assert len(levels["event"]) == 4 and len(levels["set"]) == 10


def test_an_element_belongs_to_one_set_and_a_set_to_one_event(gym):
    parents = defaultdict(set)
    for record in read_finegym(gym / "videos", annotations(gym), "train").records:
        event, of_set = record.level_labels
        parents[record.label].add(of_set)
        parents[of_set].add(event)
    assert {len(each) for each in parents.values()} == {1}


def test_packed_samples_are_whole_elements_and_nothing_else(gym, tmp_path):
    config = PackConfig("finegym", gym / "videos", tmp_path, "val", tuple(annotations(gym)), workers=1)
    pack(config)
    dataset = load_dataset(tmp_path / "val")
    assert len(dataset) == 16 and set(dataset.num_frames) == {20}
    assert set(dataset.level_labels) == {"event", "set"}
    for sample_id in range(len(dataset)):
        begin, size = dataset.media_offsets[sample_id], dataset.media_bytes[sample_id]
        media = dataset.shard_path(dataset.shards[sample_id]).read_bytes()[begin : begin + size]
        frames = decode_frames(media, np.arange(20))
        assert min(frame.max() for frame in frames) > 100  # between elements it is black


def test_videos_of_a_seed_are_the_same_and_splits_differ(tmp_path):
    one = MotionGymConfig(tmp_path / "one", train_videos=1, val_videos=1, num_frames=20, size=16, workers=1)
    write_motion_gym(one)
    write_motion_gym(MotionGymConfig(tmp_path / "other", train_videos=1, val_videos=1, num_frames=20, size=16))
    for path in sorted((tmp_path / "one").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "other" / path.relative_to(tmp_path / "one")).read_bytes()
    assert plan_video(one, "train", 0) != plan_video(one, "val", 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 12}, "num_frames=12"),
        ({"train_videos": 0}, "train_videos=0"),
        ({"workers": 0}, "workers=0"),
        ({"size": 17}, "17"),
    ],
)
def test_impossible_datasets_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        MotionGymConfig(tmp_path, **options)


def test_a_folder_in_use_is_left_alone(gym):
    with pytest.raises(UserError, match="already there"):
        write_motion_gym(MotionGymConfig(gym, **SMALL))
