"""Worker processes: the same clips as threads give, whatever becomes of the workers."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch

from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from pipeline.reading import SampleError
from sharding.dataset import PackedDataset, load_dataset
from sharding.packing.frame_index import add_frame_index
from tests.conftest import ROOT, pack
from tests.pipeline.conftest import wait_until

CONFIG = DataConfig(num_segments=4, short_side=64, crop_size=56, num_workers=2, prefetch_batches=2)


@pytest.fixture(params=["pyav", "jpeg"])
def dataset(request) -> PackedDataset:
    return load_dataset(request.getfixturevalue({"pyav": "numbered", "jpeg": "numbered_jpeg"}[request.param]))


def batches(dataset: PackedDataset, config: DataConfig, epochs: int = 2, **options) -> list[torch.Tensor]:
    options = {"training": True, "micro_batch_size": 3, "seed": 3} | options
    with VideoLoader(dataset, config, **options) as loader:
        return [
            torch.cat([batch.clips.double().sum((1, 2, 3, 4)), batch.labels, batch.sample_ids])
            for _ in range(epochs)
            for batch in loader
        ]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other))


EARLIER: set[int] = set()
"""Workers of loaders that other tests of this process have left to the garbage collector."""


@pytest.fixture(autouse=True)
def earlier() -> None:
    EARLIER.clear()
    EARLIER.update(worker.pid for worker in children())


def children() -> list[psutil.Process]:
    """The workers that the test has started."""
    found = [p for p in psutil.Process().children() if "pipeline.worker" in " ".join(p.cmdline())]
    return [worker for worker in found if worker.pid not in EARLIER]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crop": "random_resized", "color_jitter": 0.3},
        {"sampling": "dense", "frame_stride": 2, "crop": "multi_scale"},
    ],
)
def test_processes_give_what_threads_give(dataset, changes):
    config = replace(CONFIG, **changes)
    assert same(batches(dataset, config), batches(dataset, replace(config, worker_type="thread")))
    assert not children()


def test_views_of_evaluation(dataset):
    config, options = (
        replace(CONFIG, test_clips=2, test_crops=3),
        {"training": False, "micro_batch_size": 12, "epochs": 1},
    )
    assert same(batches(dataset, config, **options), batches(dataset, replace(config, worker_type="thread"), **options))


def test_a_dataset_without_an_index_gives_the_same(numbered_videos, tmp_path):
    """By way of the container, as version 1 has it, and after the index was added; dense too, from keyframes before."""
    for profile in ("h264", "dense", "jpeg"):
        folder = pack(numbered_videos, tmp_path / profile, profile=profile)
        new = load_dataset(folder)
        found = batches(new, CONFIG, epochs=1)
        (folder / "frames.npy").unlink()
        manifest = replace(new.manifest, frames_sha256="", codec_parameters=(), format_version=1)
        (folder / "manifest.json").write_text(manifest.to_json())
        old = load_dataset(folder)
        assert old.frame_starts is None and old.fingerprint == new.fingerprint
        assert same(batches(old, CONFIG, epochs=1), found)
        assert add_frame_index(folder) and not add_frame_index(folder)
        assert load_dataset(folder).manifest == new.manifest


def test_resume_in_the_middle_with_workers_running(dataset):
    whole = batches(dataset, CONFIG, epochs=1)
    with VideoLoader(dataset, CONFIG, training=True, micro_batch_size=3, seed=3) as loader:
        for number, _ in enumerate(loader):
            if number == 1:
                break
        state = loader.state_dict()
        # The same loader continues where the loop was left; so does another.
        here = [batch.sample_ids.tolist() for batch in loader]
    with VideoLoader(dataset, CONFIG, training=True, micro_batch_size=3, seed=3) as loader:
        loader.load_state_dict(state)
        there = [batch.sample_ids.tolist() for batch in loader]
    assert here == there == [row[-3:].long().tolist() for row in whole[2:]]


def test_a_killed_worker_costs_nothing_between_samples(numbered, caplog):
    """Or the sample it was at, which is named; never a batch, and never another sample."""
    dataset = load_dataset(numbered)
    expected = batches(dataset, replace(CONFIG, worker_type="thread"), epochs=12)
    with VideoLoader(dataset, CONFIG, training=True, micro_batch_size=3, seed=3) as loader:
        found = []
        for epoch in range(12):
            for batch in loader:
                found.append(torch.cat([batch.clips.double().sum((1, 2, 3, 4)), batch.labels, batch.sample_ids]))
            workers = children()
            assert len(workers) == 2
            os.kill(workers[epoch % 2].pid, signal.SIGKILL)
    assert same(found, expected)
    assert "died by SIGKILL, between samples" in caplog.text


def test_a_worker_that_dies_at_a_sample_names_it(numbered, monkeypatch):
    """Twice the same sample kills its worker, as a decoder's crash would; left out, the rest goes on."""
    dataset = load_dataset(numbered)
    deadly = dataset.key(5)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests" / "helpers" / "deadly"), str(ROOT)]))
    monkeypatch.setenv("DEADLY_SAMPLE", "5")
    with (
        VideoLoader(dataset, CONFIG, training=True, micro_batch_size=3, seed=3) as loader,
        pytest.raises(SampleError, match=f"sample {deadly}: the worker process that read it died by SIGSEGV"),
    ):
        list(loader)
    config = replace(CONFIG, on_bad_sample="quarantine")
    with VideoLoader(dataset, config, training=True, micro_batch_size=3, seed=3) as loader:
        seen = torch.cat([batch.sample_ids for batch in loader])
    assert loader.excluded == (5,) and 5 not in seen


def test_workers_that_die_on_and_on_end_it(numbered, monkeypatch):
    """With one clear error, from which the loader can still be closed."""
    monkeypatch.setattr("pipeline.worker_processes._MAX_DEATHS", 0)
    with VideoLoader(load_dataset(numbered), CONFIG, training=True, micro_batch_size=3, seed=3) as loader:
        list(loader)
        os.kill(children()[0].pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match=r"died by SIGKILL, between samples; 1 have ended so far"):
            list(loader)
    assert not children()


def test_how_many_samples_may_be_deadly_is_for_the_bound_on_bad_samples_to_say(numbered, monkeypatch):
    monkeypatch.setattr("pipeline.worker_processes._MAX_DEATHS", 0)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests" / "helpers" / "deadly"), str(ROOT)]))
    monkeypatch.setenv("DEADLY_SAMPLE", "5")
    config = replace(CONFIG, on_bad_sample="quarantine")
    with VideoLoader(load_dataset(numbered), config, training=True, micro_batch_size=3, seed=3) as loader:
        assert len(list(loader)) == 4
        assert loader.excluded == (5,)


def test_no_two_batches_get_the_same_memory_when_a_worker_dies_with_two_tasks(numbered, monkeypatch):
    """Its tasks are of a stream that was dropped meanwhile, and of one batch."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests" / "helpers" / "deadly"), str(ROOT)]))
    monkeypatch.setenv("HANGING_SAMPLE", "5")
    config = replace(CONFIG, num_workers=1, worker_timeout_seconds=1)
    with VideoLoader(load_dataset(numbered), config, training=True, micro_batch_size=4, seed=3) as loader:
        stream = loader._stream
        stream.start((0, np.array([5, 1, 2, 3])) for _ in range(1))
        reader = stream._reader
        wait_until(lambda: reader._workers and len(reader._workers[0].held) == 2)
        stream.start(iter(()))
        wait_until(lambda: reader._workers and not reader._workers[0].held)
        assert sorted(reader._free) == list(range(config.prefetch_batches + 1))


def test_a_batch_released_behind_the_end_writes_nothing(numbered, tmp_path):
    """Into no file that has got the number of the closed pipe."""
    with VideoLoader(load_dataset(numbered), CONFIG, training=True, micro_batch_size=3, seed=3) as loader:
        next(iter(loader))
        reader = loader._stream._reader
        batch = reader._order[0] if reader._order else reader.next()
    files = [(tmp_path / str(number)).open("wb", buffering=0) for number in range(64)]
    reader.release(batch)
    assert not any(path.stat().st_size for path in tmp_path.iterdir())
    for file in files:
        file.close()


def test_modules_of_the_folder_that_it_is_started_in_are_not_taken(numbered, tmp_path):
    for name in ("numpy", "av", "pipeline"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the folder')\n")
    code = f"""
import sys
sys.path.remove("")
from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
config = DataConfig(num_segments=4, short_side=64, crop_size=56, num_workers=1)
with VideoLoader({str(numbered)!r}, config, training=True, micro_batch_size=3) as loader:
    print(len(list(loader)))
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "4\n", done.stderr


def test_a_worker_that_hangs_is_ended(numbered, monkeypatch):
    dataset = load_dataset(numbered)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests" / "helpers" / "deadly"), str(ROOT)]))
    monkeypatch.setenv("HANGING_SAMPLE", "5")
    config = replace(CONFIG, worker_timeout_seconds=3)
    with (
        VideoLoader(dataset, config, training=True, micro_batch_size=3, seed=3) as loader,
        pytest.raises(SampleError, match=f"sample {dataset.key(5)}: .* took longer than data.worker_timeout_seconds=3"),
    ):
        list(loader)
    assert not children()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_parent(numbered, end):
    code = f"""
import sys, time
from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
loader = VideoLoader({str(numbered)!r}, DataConfig(num_segments=4, short_side=64, crop_size=56, num_workers=2),
                     training=True, micro_batch_size=3)
iterator = iter(loader)
next(iterator)
print("ready", flush=True)
time.sleep(600)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        workers = [p for p in psutil.Process(process.pid).children() if "pipeline.worker" in " ".join(p.cmdline())]
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker.pid, signal.SIGTERM)  # as a scheduler does, to all processes of a job
        time.sleep(0.2)
        assert all(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
        process.send_signal(end)
        process.wait()
        wait_until(lambda: not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers), 30)


def test_memory_is_bounded_by_the_slots(numbered):
    """However slowly batches are taken, no more than the slots are filled."""
    dataset = load_dataset(numbered)
    with VideoLoader(dataset, CONFIG, training=True, micro_batch_size=3, seed=3) as loader:
        iterator = iter(loader)
        next(iterator)
        time.sleep(0.5)
        reader = loader._stream._reader
        assert len(reader._slots) == CONFIG.prefetch_batches + 1
        assert len(reader._order) <= len(reader._slots)
    assert np.all(reader._status == 0)
