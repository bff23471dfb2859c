"""RandAugment and random erasing: the plan's draws, and the graph's pictures against Pillow's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from pipeline.augment import NUM_BINS, OPERATIONS, Effects, draw_erased_box, draw_operations
from pipeline.config import DataConfig
from pipeline.dali_graph import ClipGraph, input_types
from pipeline.loader import VideoLoader
from pipeline.plan import plan_clip
from sharding.dataset import PackedDataset, load_dataset
from tests.helpers.clips import run_alone, thread_config
from tests.pipeline.test_loader import pixels, same

SIDE = 64
LOUD = {"rand_augment": 2, "rand_augment_magnitude": 12, "rand_augment_std": 3, "random_erasing": 0.5}
NUM_DRAWS = 2000


@pytest.fixture(params=["pyav", "jpeg"])
def dataset(request) -> PackedDataset:
    return load_dataset(request.getfixturevalue({"pyav": "numbered", "jpeg": "numbered_jpeg"}[request.param]))


def picture(seed: int) -> Image.Image:
    """Coloured, with a little noise, and without the darkest and brightest values."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(30, 221, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.int64)
    return Image.fromarray((smooth + generator.integers(-8, 9, smooth.shape)).astype(np.uint8))


def equalized(image: Image.Image) -> Image.Image:
    """As OpenCV does, whose rule DALI follows: Pillow's rounds to whole steps."""
    channels = []
    for channel in np.moveaxis(np.asarray(image), 2, 0):
        counts = np.bincount(channel.ravel(), minlength=256)
        darkest = counts[channel.min()]
        table = (np.cumsum(counts) - darkest) * 255 / (channel.size - darkest)
        channels.append(np.clip(table.round(), 0, 255).astype(np.uint8)[channel])
    return Image.fromarray(np.stack(channels, 2))


def by_pillow(image: Image.Image, name: str, magnitude: int, negated: bool) -> Image.Image:
    """What an operation is to make of an image."""
    strength = magnitude / 30 * (-1 if negated else 1)
    shift = strength * 100 / 224 * SIDE
    affine = {
        "translate_x": (1, 0, -shift, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, -shift),
        "shear_x": (1, -0.3 * strength, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, -0.3 * strength, 1, 0),
    }
    enhanced = {"brightness": "Brightness", "contrast": "Contrast", "color": "Color", "sharpness": "Sharpness"}
    grey, linear = (128, 128, 128), Image.Resampling.BILINEAR
    if name in affine:
        return image.transform(image.size, Image.Transform.AFFINE, affine[name], linear, fillcolor=grey)
    if name in enhanced:
        return getattr(ImageEnhance, enhanced[name])(image).enhance(1 + 0.9 * strength)
    if name == "rotate":
        return image.rotate(30 * strength, linear, fillcolor=grey)
    if name == "posterize":
        return ImageOps.posterize(image, round(8 - magnitude / 30 * 4))
    if name == "solarize":
        return ImageOps.solarize(image, 256 - 256 * magnitude / 30)
    return {"equalize": equalized, "auto_contrast": ImageOps.autocontrast, "identity": lambda x: x}[name](image)


def run_graph(frames: np.ndarray, operations: np.ndarray, erased: np.ndarray) -> np.ndarray:
    """The pixels of clips (B, F, SIDE, SIDE, 3) after operations (B, n, 3) and erasing boxes (B, 4)."""
    count = len(frames)
    inputs = {
        "media": frames,
        "scaled": np.zeros(count, bool),
        "operations": operations.astype(np.int32),
        "erased": erased.astype(np.float32),
        "start_0": np.zeros((count, 2), np.float32),
        "end_0": np.full((count, 2), SIDE, np.float32),
        "place_0": np.zeros((count, 2), np.float32),
        "flip_0": np.zeros(count, np.int32),
    }
    effects = Effects(num_operations=operations.shape[1], erasing=True)
    statistics = DataConfig().pixel_mean, DataConfig().pixel_std
    graph = ClipGraph(lambda: inputs, "pyav", count, SIDE, *statistics, torch.device("cpu"), 1, 1, effects)
    clips = torch.from_dlpack(graph.run()[0])
    return np.stack([pixels(clip.permute(0, 3, 1, 2)) for clip in clips])


def test_each_operation_is_pillows_on_all_frames():
    """Weak and strong, to both sides, in one batch; mean differences in grey levels, as Pillow rounds otherwise and
    leaves out the border."""
    cases = [(name, m, side) for name in OPERATIONS for m, side in ((0, 0), (9, 0), (9, 1), (24, 1))]
    frames = np.stack([[picture(2 * i), picture(2 * i + 1)] for i in range(len(cases))])
    operations = np.array([[[OPERATIONS.index(name), m, side]] for name, m, side in cases])
    shown = run_graph(frames, operations, np.zeros((len(cases), 4)))
    for (name, m, side), clip, before in zip(cases, shown, frames):
        for frame, plain in zip(clip, before):
            expected = np.asarray(by_pillow(Image.fromarray(plain), name, m, bool(side)), float)
            assert np.abs(frame - expected).mean() < 1.2, (name, m, side)
            assert np.median(np.abs(frame - expected)) <= 1, (name, m, side)
        if m > 20 and name != "identity":  # and it is no other than the plain picture's
            assert np.abs(clip - before).mean() > 0.3, name


def test_operations_follow_each_other():
    frames = np.array([[picture(0)]])
    chosen = [("solarize", 20, 0), ("rotate", 15, 1), ("posterize", 30, 0)]
    shown = run_graph(frames, np.array([[[OPERATIONS.index(n), m, s] for n, m, s in chosen]]), np.zeros((1, 4)))
    expected = Image.fromarray(frames[0, 0])
    for name, magnitude, side in chosen:
        expected = by_pillow(expected, name, magnitude, bool(side))
    assert np.median(np.abs(shown[0, 0] - np.asarray(expected))) <= 1
    assert not (shown.round().astype(int) % 16).any()  # four bits are left


@pytest.mark.parametrize("name", ["rotate", "solarize", "identity"])
def test_planned_clips_are_augmented_and_erased(dataset, name):
    """From the plan to the pixels, of decoded frames and of JPEGs, scaled and not."""
    decoder = "jpeg" if dataset.manifest.profile == "jpeg" else "pyav"
    sample_id = int(np.argmax(dataset.num_frames))
    for short_side in (64, 72):
        config = thread_config(num_segments=3, short_side=short_side, crop_size=48, random_erasing=1.0)
        plan = plan_clip(dataset, config, sample_id, training=True, seed=1)
        top, left, bottom, right = plan.erased.astype(int)
        assert 0 <= top < bottom <= 48 and 0 <= left < right <= 48
        operations = np.array([[OPERATIONS.index(name), 15, 1]], np.int32)
        plain, changed = (
            pixels(run_alone(dataset, config, one, decoder)[0])
            for one in (replace(plan, erased=np.zeros(4)), replace(plan, operations=operations))
        )
        for before, after in zip(plain, changed):
            expected = by_pillow(Image.fromarray(before.round().astype(np.uint8)), name, 15, True)
            expected = np.asarray(expected, float).copy()
            expected[top:bottom, left:right] = DataConfig().pixel_mean
            assert np.abs(after[top:bottom, left:right] - DataConfig().pixel_mean).max() < 1e-3
            assert np.median(np.abs(after - expected)) <= 1 and np.abs(after - expected).mean() < 3
        if name == "identity":
            plain[:, top:bottom, left:right] = DataConfig().pixel_mean
            assert np.abs(plain - changed).max() < 1e-3  # the box and nothing else


def test_draws_are_pure(dataset):
    config = DataConfig(short_side=64, crop_size=48, **LOUD)

    def drawn(sample_id: int, seed: int, epoch: int) -> tuple:
        plan = plan_clip(dataset, config, sample_id, training=True, seed=seed, epoch=epoch)
        return plan.operations.tolist(), plan.erased.tolist()

    assert drawn(3, 0, 1) == drawn(3, 0, 1)
    assert len({str(drawn(*key)) for key in ((3, 0, 1), (4, 0, 1), (3, 1, 1), (3, 0, 2))}) == 4
    # What was drawn before does not shift, nor is anything drawn in evaluation.
    plain = plan_clip(dataset, DataConfig(short_side=64, crop_size=48), 3, training=True)
    loud = plan_clip(dataset, config, 3, training=True)
    for name in ("frames", "boxes", "flips", "color"):
        assert np.array_equal(getattr(plain, name), getattr(loud, name))
    assert not len(plain.operations) and not plain.erased.any()
    test = plan_clip(dataset, config, 3, training=False)
    assert not len(test.operations) and not test.erased.any()


def test_ranks_and_resume_see_the_same_pixels(dataset):
    config = thread_config(num_segments=3, short_side=64, crop_size=48, **LOUD)

    def epoch(world_size: int, step: int = 0) -> dict[int, bytes]:
        found = {}
        for rank in range(world_size):
            ranks = {"rank": rank, "world_size": world_size, "batch_size": 4}
            loader = VideoLoader(dataset, config, training=True, micro_batch_size=4 // world_size, seed=7, **ranks)
            loader.load_state_dict(loader.state_dict() | {"step": step})
            for batch in loader:
                clips = zip(batch.sample_ids.tolist(), batch.clips)
                found |= {sample_id: clip.numpy().tobytes() for sample_id, clip in clips}
        return found

    alone = epoch(1)
    assert len(alone) == 12
    assert epoch(2) == alone
    resumed = epoch(1, step=2)
    assert len(resumed) == 4 and all(alone[sample_id] == clip for sample_id, clip in resumed.items())


def test_worker_processes_give_what_threads_give(numbered):
    dataset = load_dataset(numbered)
    config = thread_config(num_segments=2, short_side=64, crop_size=48, num_workers=2, **LOUD)
    loaders = [
        VideoLoader(dataset, replace(config, worker_type=kind), training=True, micro_batch_size=4)
        for kind in ("thread", "process")
    ]
    one, other = (list(loader) for loader in loaders)
    for loader in loaders:
        loader.close()
    assert same(one, other)


def test_magnitudes_and_operations_are_spread_as_said():
    generator = np.random.default_rng(0)
    fixed = draw_operations(DataConfig(rand_augment=NUM_DRAWS), generator)
    assert set(fixed[:, 1]) == {9} and set(fixed[:, 2]) == {0, 1}
    counts = np.bincount(fixed[:, 0], minlength=len(OPERATIONS))
    assert counts.min() > 0.7 * NUM_DRAWS / len(OPERATIONS) and len(counts) == len(OPERATIONS)
    assert 0.45 < fixed[:, 2].mean() < 0.55
    varied = draw_operations(DataConfig(rand_augment=NUM_DRAWS, rand_augment_std=3), generator)[:, 1]
    assert 2.7 < varied.std() < 3.3 and 8.7 < varied.mean() < 9.3
    strong = DataConfig(rand_augment=NUM_DRAWS, rand_augment_magnitude=30, rand_augment_std=9)
    assert draw_operations(strong, generator)[:, 1].max() == NUM_BINS - 1


def test_boxes_are_spread_as_said():
    config = DataConfig(random_erasing=0.25, crop_size=112)
    generator = np.random.default_rng(0)
    boxes = np.stack([draw_erased_box(config, generator) for _ in range(NUM_DRAWS)])
    erased = boxes[boxes.any(1)]
    assert 0.22 < len(erased) / NUM_DRAWS < 0.28
    assert (erased == erased.round()).all() and erased.min() >= 0 and erased.max() <= 112
    height, width = erased[:, 2] - erased[:, 0], erased[:, 3] - erased[:, 1]
    area, shape = height * width / 112**2, height / width
    assert area.min() > 0.015 and area.max() < 0.35 and 0.15 < area.mean() < 0.2
    assert shape.min() > 0.25 and shape.max() < 3.6 and 0.9 < np.median(shape) < 1.1
    assert {erased[:, 0].min(), erased[:, 1].min()} == {0} and erased[:, 2].max() == erased[:, 3].max() == 112


def test_without_them_the_graph_is_the_one_it_was():
    assert not {"operations", "erased"} & input_types("pyav", 1, Effects(color=True)).keys()


@pytest.mark.parametrize(
    "setting",
    [{"rand_augment": -1}, {"rand_augment_magnitude": 31}, {"rand_augment_std": -0.1}, {"random_erasing": 1.1}],
)
def test_settings_that_are_none(setting):
    with pytest.raises(ValueError, match=rf"data.{next(iter(setting))}=.*: use 0"):
        DataConfig(**setting)
