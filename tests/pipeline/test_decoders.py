"""The choice of a decode node: what fits, what works, what was measured and where that is recorded.

A GPU is only a name here: what is asked of it is handed in.
"""

import errno
import json
import logging
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.config import DataConfig
from pipeline.cores import cores_per_rank
from pipeline.dali_graph import DALI_VERSION
from pipeline.decode_speeds import SPEEDS, driver_version, machine_name, read_speeds, write_speeds
from pipeline.decoders import Trial, choose_decoder, fitting_decoders, working_decoders
from pipeline.loader import VideoLoader
from pipeline.nvdec_probe import NvdecProbe
from sharding.dataset import PackedDataset, load_dataset
from sharding.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)
WORKS = NvdecProbe(True, num_engines=7)
FAILS = NvdecProbe(False, "libnvcuvid.so.1 cannot be loaded", "start the container with video")


@pytest.fixture(autouse=True)
def gpu_name(monkeypatch, tmp_path):
    """The name under which speeds are recorded, and a cache of this test."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setenv("VPSN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def videos(numbered, tmp_path) -> PackedDataset:
    """A packed dataset in a folder of this test."""
    return copy_of(numbered, tmp_path / "videos")


@pytest.fixture
def jpegs(numbered_jpeg, tmp_path) -> PackedDataset:
    return copy_of(numbered_jpeg, tmp_path / "jpegs")


def copy_of(folder: Path, target: Path) -> PackedDataset:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).symlink_to(file)
    return load_dataset(target)


class Machine:
    """Probes and measures with given results, and what was asked of them."""

    def __init__(self, speeds: dict[str, float | Exception], probe: NvdecProbe = WORKS):
        self.speeds, self.result = speeds, probe
        self.asked: list[str | int] = []

    def trial(self, **more) -> Trial:
        return Trial(**{"measure": self.measure, "probe": self.probe} | more)

    def measure(self, node: str) -> float:
        self.asked.append(node)
        if isinstance(self.speeds[node], Exception):
            raise self.speeds[node]
        return self.speeds[node]

    def probe(self, index: int) -> NvdecProbe:
        self.asked.append(index)
        return self.result


def test_a_cpu_has_one_node_and_measures_nothing(videos, jpegs):
    machine = Machine({})
    assert choose_decoder("auto", videos, CPU, machine.trial()) == "pyav"
    assert choose_decoder("auto", jpegs, CPU, machine.trial()) == "jpeg"
    assert machine.asked == []
    assert fitting_decoders(videos, GPU) == ["pyav", "nvdec"]
    assert fitting_decoders(jpegs, GPU) == ["jpeg", "nvjpeg"]


@pytest.mark.parametrize(("pyav", "nvdec", "faster"), [(3290, 400, "pyav"), (300, 400, "nvdec")])
def test_auto_takes_the_faster_one_and_says_why(videos, caplog, pyav, nvdec, faster):
    machine = Machine({"pyav": pyav, "nvdec": nvdec})
    with caplog.at_level(logging.INFO):
        assert choose_decoder("auto", videos, GPU, machine.trial()) == faster
    assert machine.asked == [1, "pyav", "nvdec"]
    (line,) = caplog.messages
    assert line == f"data.decoder=auto takes {faster}; pyav {pyav:,}, nvdec {nvdec} clips/s per rank"


@pytest.mark.parametrize(("cpu", "gpu", "faster"), [(3139, 4856, "nvjpeg"), (5000, 4856, "jpeg")])
def test_jpegs_are_measured_on_both_and_need_no_probe(jpegs, cpu, gpu, faster):
    machine = Machine({"jpeg": cpu, "nvjpeg": gpu})
    assert choose_decoder("auto", jpegs, GPU, machine.trial()) == faster
    assert machine.asked == ["jpeg", "nvjpeg"]


@pytest.mark.parametrize("fixture", ["videos", "jpegs"])
def test_auto_never_takes_the_gpu_unmeasured(request, fixture, caplog):
    dataset = request.getfixturevalue(fixture)
    machine = Machine({})
    with caplog.at_level(logging.INFO):
        choice = choose_decoder("auto", dataset, GPU, machine.trial(measure=None))
    assert choice == fitting_decoders(dataset, CPU)[0]
    assert machine.asked == []
    assert "was measured" in caplog.text


def test_auto_does_without_nvdec_where_it_does_not_work(videos, caplog):
    machine = Machine({"pyav": 1.0}, FAILS)
    with caplog.at_level(logging.INFO):
        assert choose_decoder("auto", videos, GPU, machine.trial()) == "pyav"
    assert machine.asked == [1]  # with one left there is nothing to measure
    assert "takes pyav; without nvdec: NVDEC does not work here: libnvcuvid.so.1 cannot be loaded" in caplog.text
    assert not (videos.directory / SPEEDS).exists()
    assert working_decoders(videos, GPU, machine.trial())[0] == ["pyav"]
    assert working_decoders(videos, GPU, Machine({}).trial()) == (["pyav", "nvdec"], {})


def test_what_measuring_raises_excludes_the_node(videos, caplog):
    machine = Machine({"pyav": 10.0, "nvdec": RuntimeError("CUDA_ERROR_INVALID_VALUE\n(1)")})
    with caplog.at_level(logging.INFO):
        assert choose_decoder("auto", videos, GPU, machine.trial()) == "pyav"
    assert "pyav 10 clips/s per rank; without nvdec: CUDA_ERROR_INVALID_VALUE (1)" in caplog.text
    assert not (videos.directory / SPEEDS).exists()
    broken = Machine({"pyav": OSError("no disk"), "nvdec": RuntimeError("no disk either")})
    assert choose_decoder("auto", videos, GPU, broken.trial()) == "pyav"


def test_nvdec_asked_for_and_not_working_is_the_users_to_mend(videos):
    words = (
        "^data.decoder=nvdec: NVDEC does not work here: libnvcuvid.so.1 cannot be loaded; "
        "start the container with video, or use data.decoder=pyav$"
    )
    with pytest.raises(UserError, match=words):
        choose_decoder("nvdec", videos, GPU, Machine({}, FAILS).trial())
    assert choose_decoder("nvdec", videos, GPU, Machine({}).trial()) == "nvdec"
    assert choose_decoder("pyav", videos, GPU, Machine({}, FAILS).trial()) == "pyav"


def test_videos_that_nvdec_cannot_take_are_refused_before_the_first_step(videos):
    machine = Machine({}, replace(WORKS, min_size=(160, 64)))
    with pytest.raises(UserError, match=r"13 video.*96 x 64 pixels.* from 160 x 64; use data.decoder=pyav$"):
        choose_decoder("nvdec", videos, GPU, machine.trial())
    copied = replace(videos, manifest=replace(videos.manifest, profile="copy"))
    machine = Machine({})
    with pytest.raises(UserError, match=r"no index that says how its videos are coded; use data\.decoder=pyav$"):
        choose_decoder("nvdec", copied, GPU, machine.trial())
    with pytest.raises(UserError, match=r"not H\.264 in MP4"):
        choose_decoder("nvdec", copied, GPU, machine.trial(parameters=[b"no record"]))
    assert machine.asked == []  # the GPU need not be tried


@pytest.mark.parametrize(
    ("decoder", "fixture", "device", "words"),
    [
        ("nvdec", "videos", CPU, "needs a GPU, and this run has none; use data.decoder=pyav"),
        ("nvjpeg", "jpegs", CPU, "needs a GPU, and this run has none; use data.decoder=jpeg"),
        ("jpeg", "videos", GPU, "stores videos; use auto or pyav or nvdec"),
        ("nvjpeg", "videos", CPU, "stores videos; use auto or pyav or nvdec"),
        ("nvdec", "jpegs", CPU, "stores JPEGs; use auto or jpeg or nvjpeg"),
        ("pyav", "jpegs", GPU, "stores JPEGs; use auto or jpeg or nvjpeg"),
    ],
)
def test_nodes_that_do_not_fit_are_refused(request, decoder, fixture, device, words):
    with pytest.raises(UserError, match=words):
        choose_decoder(decoder, request.getfixturevalue(fixture), device, Machine({}).trial())


def on_ranks(machines: list[Machine], decoder: str, dataset: PackedDataset) -> list[str]:
    """What each rank chooses, in threads that gather by a barrier; all must gather equally often."""
    barrier = threading.Barrier(len(machines), timeout=20)
    shared: list = [None] * len(machines)
    choices: list = [None] * len(machines)

    def rank(number: int) -> None:
        def gather(value: object) -> list:
            shared[number] = value
            barrier.wait()
            values = list(shared)
            barrier.wait()
            return values

        try:
            choices[number] = choose_decoder(decoder, dataset, GPU, machines[number].trial(gather=gather))
        except UserError as error:
            choices[number] = str(error)

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(len(machines))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return choices


def test_the_slowest_rank_counts_on_all(videos):
    machines = [Machine({"pyav": 500, "nvdec": 900}), Machine({"pyav": 450, "nvdec": 300})]
    assert on_ranks(machines, "auto", videos) == ["pyav", "pyav"]
    assert read_speeds(videos, GPU) == {"pyav": 450.0, "nvdec": 300.0}


def test_a_node_must_work_on_all_ranks(videos):
    probes = [Machine({}), Machine({}, FAILS), Machine({})]
    assert on_ranks(probes, "auto", videos) == ["pyav"] * 3
    errors = on_ranks(probes, "nvdec", videos)
    assert len(set(errors)) == 1
    assert "libnvcuvid" in errors[0]
    failing = [Machine({"pyav": 1, "nvdec": 2}), Machine({"pyav": 1, "nvdec": OSError("lost")})]
    assert on_ranks(failing, "auto", videos) == ["pyav"] * 2


def test_the_next_run_measures_nothing(videos):
    first = Machine({"pyav": 3290.04, "nvdec": 400})
    choose_decoder("auto", videos, GPU, first.trial())
    again = Machine({})
    assert choose_decoder("auto", videos, GPU, again.trial()) == "pyav"
    assert choose_decoder("auto", videos, GPU, again.trial(measure=None)) == "pyav"
    assert again.asked == []
    recorded = json.loads((videos.directory / SPEEDS).read_text())
    assert recorded == {machine_name(GPU): {"pyav": 3290.0, "nvdec": 400.0}}


def test_nvdec_recorded_as_the_faster_is_still_tried(videos):
    """The same machine with another container may lack it."""
    write_speeds(videos, GPU, {"pyav": 300, "nvdec": 900})
    works, fails = Machine({}), Machine({}, FAILS)
    assert choose_decoder("auto", videos, GPU, works.trial(measure=None)) == "nvdec"
    assert choose_decoder("auto", videos, GPU, fails.trial()) == "pyav"
    assert works.asked == fails.asked == [1]


def test_another_machine_is_measured_again(videos, monkeypatch):
    choose_decoder("auto", videos, GPU, Machine({"pyav": 1, "nvdec": 2}).trial())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L4")
    machine = Machine({"pyav": 2, "nvdec": 1})
    assert choose_decoder("auto", videos, GPU, machine.trial()) == "pyav"
    assert machine.asked == [1, "pyav", "nvdec"]
    assert len(json.loads((videos.directory / SPEEDS).read_text())) == 2


def test_other_cores_per_rank_are_another_machine(videos, monkeypatch):
    monkeypatch.setattr("pipeline.cores.available_cores", lambda: 16)
    for ranks in ("1", "8"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        choose_decoder("auto", videos, GPU, Machine({"pyav": 1, "nvdec": 2}).trial())
    names = list(json.loads((videos.directory / SPEEDS).read_text()))
    assert [name.split(",")[0] for name in names] == ["16 cores per rank", "2 cores per rank"]


def test_the_name_of_a_machine_has_all_that_matters():
    parts = f"{cores_per_rank()} cores per rank", "NVIDIA H200", f"driver {driver_version()}", f"DALI {DALI_VERSION}"
    assert machine_name(GPU) == ", ".join(parts)
    assert "no GPU" in machine_name(CPU)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"x": 1}', "\xff"])
def test_a_damaged_record_is_no_record(videos, content):
    path = videos.directory / SPEEDS
    path.write_text(content, encoding="latin-1")
    assert read_speeds(videos, GPU) == {}
    assert write_speeds(videos, GPU, {"pyav": 5}) == path
    assert read_speeds(videos, GPU) == {"pyav": 5.0}


def test_without_a_place_next_to_the_shards_the_cache_takes_it(videos, tmp_path, monkeypatch):
    blocked = replace(videos, directory=tmp_path / "file" / "train")
    (tmp_path / "file").touch()  # nothing can be written below a file, not even by root
    path = write_speeds(blocked, GPU, {"pyav": 5, "nvdec": 6})
    assert path == tmp_path / "cache" / "decode_speeds" / f"{videos.fingerprint}.json"
    assert read_speeds(blocked, GPU) == {"pyav": 5.0, "nvdec": 6.0}
    monkeypatch.setenv("VPSN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError):
        write_speeds(blocked, GPU, {"pyav": 5})


def test_a_choice_that_cannot_be_recorded_is_made_all_the_same(videos, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VPSN_CACHE", str(tmp_path / "file" / "cache"))
    (videos.directory / SPEEDS).mkdir()  # in place of the file
    with caplog.at_level(logging.INFO):
        assert choose_decoder("auto", videos, GPU, Machine({"pyav": 1, "nvdec": 2}).trial()) == "nvdec"
    assert "speeds of decoding are not recorded" in caplog.text


def test_videos_and_jpegs_in_one_dataset_are_refused(numbered):
    mixed = load_dataset(numbered)
    mixed.__dict__["suffixes"] = ["mp4", "jpgs"]
    with pytest.raises(UserError, match="stores both videos and JPEGs; pack them as two datasets"):
        fitting_decoders(mixed, torch.device("cpu"))


def test_no_memory_to_share_is_one_line(numbered, monkeypatch):
    def full(settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipeline.clip_stream.ProcessReader", full)
    config = DataConfig(num_segments=2, short_side=64, crop_size=56, worker_type="process")
    with VideoLoader(numbered, config, training=False, micro_batch_size=4) as loader, pytest.raises(UserError) as error:
        list(loader)
    assert str(error.value).startswith("data.worker_type=process: no memory to share with the workers (No space left")
