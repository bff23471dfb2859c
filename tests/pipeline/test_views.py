"""Views, crops and colours through the real graph, against the same made by hand from whole frames."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from pipeline.plan import plan_clip
from pipeline.reading import read_media
from sharding.dataset import PackedDataset, load_dataset
from sharding.errors import UserError
from sharding.video import frame_packets as packets
from sharding.video.decode import decode_frames
from tests.conftest import pack
from tests.helpers.clips import read_alone, run_alone, thread_config
from tests.helpers.manifests import edit_manifest
from tests.pipeline.test_loader import pixels


@pytest.fixture(params=["pyav", "jpeg"])
def dataset(request) -> PackedDataset:
    return load_dataset(request.getfixturevalue({"pyav": "numbered", "jpeg": "numbered_jpeg"}[request.param]))


def evaluation(dataset: PackedDataset, **settings) -> tuple[DataConfig, list]:
    config = thread_config(**{"num_segments": 4, "short_side": 64, "crop_size": 56} | settings)
    return config, list(VideoLoader(dataset, config, training=False, micro_batch_size=24))


@pytest.mark.parametrize("sampling", ["segments", "dense"])
@pytest.mark.parametrize(("clips", "crops"), [(1, 3), (3, 1), (2, 3), (2, 10)])
def test_views_are_the_crops_and_clips_one_by_one(dataset, clips, crops, sampling):
    """Every view equals what the same plan gives alone, so sharing the decoded frames changes nothing."""
    settings = {"sampling": sampling, "frame_stride": 2}
    config, batches = evaluation(dataset, test_clips=clips, test_crops=crops, **settings)
    seen = 0
    for batch in batches:
        assert batch.num_views == clips * crops
        views = batch.clips.view(len(batch.labels), crops, clips, 4, 3, 56, 56)
        for sample_id, of_sample in zip(batch.sample_ids.tolist(), views):
            plan = plan_clip(dataset, config, sample_id, training=False)
            frames = plan.frames.reshape(clips, 4)
            for crop, (box, flip) in enumerate(zip(plan.boxes.astype(int), plan.flips)):
                for clip in range(clips):
                    whole = shown(dataset, sample_id, frames[clip])
                    expected = whole[:, box[0] : box[2], box[1] : box[3]]
                    expected = expected[:, :, ::-1] if flip else expected
                    assert np.abs(pixels(of_sample[crop, clip]) - expected).max() < 1e-3
            seen += 1
    assert seen == len(dataset)


_whole: dict[tuple, np.ndarray] = {}


def shown(dataset: PackedDataset, sample_id: int, frames: np.ndarray) -> np.ndarray:
    """Whole frames (T, H, W, 3); of JPEGs each as the graph decodes it, in two squares that make the whole."""
    if dataset.suffixes[sample_id] == "mp4":
        return decode_frames(read_media(dataset, sample_id), frames)
    key = (dataset.fingerprint, sample_id)
    if key not in _whole:
        count = int(dataset.num_frames[sample_id])
        config = thread_config(num_segments=count, short_side=64, crop_size=64)
        plan = plan_clip(dataset, config, sample_id, training=False)
        squares = [np.array([[0, left, 64, left + 64]], np.float32) for left in (0, 32)]
        left, right = (pixels(run_alone(dataset, config, replace(plan, boxes=square), "jpeg")[0]) for square in squares)
        _whole[key] = np.concatenate([left, right[:, :, 32:]], 2)
    return _whole[key][frames]


def test_frames_that_views_share_are_decoded_once(dataset, monkeypatch):
    """Three crops of two clips of a video with two frames: two frames are read, whatever the number of views."""
    config = thread_config(num_segments=4, short_side=64, crop_size=56, test_clips=2, test_crops=3)
    sample_id = int(np.flatnonzero(dataset.num_frames == 2)[0])
    decoder = "jpeg" if dataset.suffixes[sample_id] == "jpgs" else "pyav"
    plan = plan_clip(dataset, config, sample_id, training=False)
    taken = []
    convert = packets.rgb_picture
    monkeypatch.setattr(packets, "rgb_picture", lambda rgb: taken.append(1) or convert(rgb))
    arrays = read_alone(dataset, config, plan, decoder)
    assert len(plan.frames) == 8
    assert arrays["num_items"].tolist() == [2]
    assert len(taken) == (2 if decoder == "pyav" else 0)


@pytest.mark.parametrize("crop", ["center", "multi_scale", "random_resized"])
def test_crops_show_the_box(dataset, crop):
    """Scaled crops against the box cut out and scaled by another library."""
    config = thread_config(num_segments=2, short_side=64, crop_size=48, crop=crop)
    loader = VideoLoader(dataset, config, training=True, micro_batch_size=6, seed=4)
    batch = next(iter(loader))
    for clip, sample_id in zip(batch.clips, batch.sample_ids.tolist()):
        plan = plan_clip(dataset, config, sample_id, training=True, seed=4)
        for frame, number in zip(pixels(clip), plan.frames):
            whole = Image.fromarray(shown(dataset, sample_id, np.array([number]))[0].round().astype(np.uint8))
            top, left, bottom, right = plan.boxes[0].tolist()
            expected = np.asarray(whole.resize((48, 48), Image.Resampling.BILINEAR, box=(left, top, right, bottom)))
            expected = expected[:, ::-1] if plan.flips[0] else expected
            assert np.abs(frame - expected).mean() < 1.5, (crop, plan.boxes)


def test_colour_is_one_for_the_clip(dataset):
    settings = {"num_segments": 3, "short_side": 64, "crop_size": 56, "flip": False}
    plain = thread_config(**settings)
    loud = thread_config(**settings, color_jitter=0.4, hue_jitter=30, grayscale=0.5)
    grey = 0
    first, second = (VideoLoader(dataset, c, training=True, micro_batch_size=6, seed=2) for c in (plain, loud))
    for one, other in zip(first, second):
        assert one.sample_ids.tolist() == other.sample_ids.tolist()
        for clip, changed, sample_id in zip(one.clips, other.clips, one.sample_ids.tolist()):
            color = plan_clip(dataset, loud, sample_id, training=True, seed=2).color
            before, after = pixels(clip), pixels(changed)
            if color[2] == 0:
                grey += 1
                assert np.abs(after - after.mean(-1, keepdims=True)).max() <= 1.5
            assert np.abs(before - after).mean() > 0.5
            # One change for all frames: where a pixel is the same in two frames, it is so afterwards.
            same = (before[0].round() == before[-1].round()).all(-1)
            assert np.abs(after[0] - after[-1])[same].max(initial=0) < 1e-3
    assert 0 < grey < 12


def test_ten_crops_do_not_go_with_classes_that_have_sides(numbered, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(numbered, copy)
    edit_manifest(copy, flip_pairs=[[0, 1]])
    config = thread_config(short_side=64, crop_size=56, test_crops=10)
    with pytest.raises(UserError, match=r"test_crops=10 mirrors clips, but that changes classes .*use 1 or 3"):
        VideoLoader(load_dataset(copy), config, training=False, micro_batch_size=4)
    with pytest.raises(UserError, match=r"trained without mirroring \(data.flip\); use 1 or 3"):
        VideoLoader(load_dataset(numbered), replace(config, flip=False), training=False, micro_batch_size=4)


def test_dense_clips_of_thinned_videos_are_warned_of(numbered_videos, numbered, tmp_path, caplog):
    config = thread_config(short_side=64, crop_size=56, sampling="dense", frame_stride=1)
    VideoLoader(load_dataset(numbered), config, training=True, micro_batch_size=4)
    assert not caplog.text
    thinned = load_dataset(pack(numbered_videos, tmp_path, max_frames=8))
    VideoLoader(thinned, config, training=True, micro_batch_size=4)
    assert "69 % of the videos were cut down to 8 evenly spaced frames" in caplog.text


def test_too_few_frames_are_refused_by_name(dataset):
    with pytest.raises(UserError, match=r"sample \S+: 1 frames, but data.min_frames=4; lower it"):
        VideoLoader(dataset, thread_config(min_frames=4), training=False, micro_batch_size=4)


def test_clips_that_show_the_same_frames_are_warned_of(numbered_videos, numbered, tmp_path, caplog):
    """Of 8 frames, two clips of 4 segments are different ones, three are not."""
    thinned = load_dataset(pack(numbered_videos, tmp_path, max_frames=8))
    config = thread_config(num_segments=4, short_side=64, crop_size=56, test_clips=2)
    enough = np.flatnonzero(thinned.num_frames == 8)
    VideoLoader(thinned, config, training=False, micro_batch_size=4, sample_ids=enough)
    assert not caplog.text
    VideoLoader(thinned, replace(config, test_clips=3), training=False, micro_batch_size=4, sample_ids=enough)
    assert "in 100 % of the videos not all of the 3 clips differ (8 frames: 2 different clips)" in caplog.text
    assert "use fewer, or shards that are packed with --max-frames 12" in caplog.text
    caplog.clear()
    one = np.flatnonzero(thinned.num_frames == 1)
    VideoLoader(thinned, config, training=False, micro_batch_size=4, sample_ids=one)
    assert "(1 frames: 1 different clips); fewer cost less and say as much" in caplog.text
