"""`python -m model.convert`: there and back gives the same tensors, and only networks that the other project has."""

import subprocess
import sys

import pytest
import torch

from model.convert import convert, main
from model.weights.source import read_weights_file
from tests.model.weights.layouts import Layout, mmaction2_names, slowfast_names, torchvision_names

PAIRS = {
    "tsm": (lambda: torchvision_names("base_model.", "new_fc", "shift"), "module.", "state_dict", "tsm"),
    "tsn": (lambda: torchvision_names("base_model.", "new_fc"), "module.", "state_dict", "tsm"),
    "mmaction2 tsm": (lambda: mmaction2_names("shift"), "", "state_dict", "mmaction2"),
    "mmaction2 tsn": (lambda: mmaction2_names("plain"), "", "state_dict", "mmaction2"),
    "mmaction2 slowonly": (lambda: mmaction2_names("slow", volumes=True), "", "state_dict", "mmaction2"),
    "slowfast": (slowfast_names, "", "model_state", "slowfast"),
    "torchvision": (torchvision_names, "", None, "torchvision"),
}


def saved(layout: Layout, prefix: str, wrapper: str | None, path) -> dict[str, torch.Tensor]:
    state = {prefix + name: value for name, value in layout.make().items()}
    torch.save({wrapper: state} if wrapper else state, path)
    return state


@pytest.mark.parametrize("name", PAIRS)
def test_there_and_back_gives_the_same_file(name, tmp_path):
    make, prefix, wrapper, to = PAIRS[name]
    theirs = saved(make(), prefix, wrapper, tmp_path / "theirs.pth")
    convert(tmp_path / "theirs.pth", "ours", tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", to, tmp_path / "again.pth")
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    again = again[wrapper] if wrapper else again
    assert again.keys() == theirs.keys()
    for key, value in theirs.items():
        assert again[key].dtype == value.dtype and torch.equal(again[key], value), key
    convert(tmp_path / "again.pth", "ours", tmp_path / "ours2.safetensors")
    assert (tmp_path / "ours2.safetensors").read_bytes() == (tmp_path / "ours.safetensors").read_bytes()


def test_from_one_project_to_another_with_what_it_must_be_told(tmp_path):
    saved(slowfast_names(), "", "model_state", tmp_path / "slow.pyth")
    lines = convert(tmp_path / "slow.pyth", "mmaction2", tmp_path / "slow.pth")
    assert lines[0].endswith("tensors of SLOW (SlowFast), as mmaction2 names them")
    assert "mean=[114.75, 114.75, 114.75], std=[57.375, 57.375, 57.375]" in lines[-1]
    state = torch.load(tmp_path / "slow.pth", weights_only=True)["state_dict"]
    assert state["backbone.layer3.0.conv1.conv.weight"].shape == (256, 512, 3, 1, 1)
    assert state.keys() == mmaction2_names("slow", volumes=True).make().keys()


def test_our_file_says_its_architecture_and_statistics(tmp_path):
    saved(slowfast_names(), "", "model_state", tmp_path / "slow.pyth")
    convert(tmp_path / "slow.pyth", "ours", tmp_path / "slow.safetensors")
    weights = read_weights_file(tmp_path / "slow.safetensors")
    assert weights.arch == "slowonly" and weights.statistics == ((0.45,) * 3, (0.225,) * 3)


def test_a_shift_has_no_tensors_so_it_must_be_said(tmp_path, capsys):
    state = torchvision_names().make()
    torch.save(state, tmp_path / "resnet.pth")
    arguments = [str(tmp_path / "resnet.pth"), "--to", "tsm", "--out", str(tmp_path / "tsm.pth")]
    assert main(arguments) == 2
    assert "--arch, one of tsn, tsm" in capsys.readouterr().err
    assert main([*arguments, "--arch", "tsm"]) == 0
    names = torch.load(tmp_path / "tsm.pth", weights_only=True)["state_dict"]
    assert "module.base_model.layer1.1.conv1.net.weight" in names and "module.new_fc.weight" in names


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.pth", "--to", "ours", "--out", "x.pth"], "absent.pth: no such file"),
        (["a.pth", "--to", "ours", "--out", "x.bin"], "--out x.bin: use a name that ends in .pth"),
        (["a.pth", "--to", "slowfast", "--out", "x.safetensors"], "slowfast reads files of torch.save"),
        (["a.pth", "--to", "ours", "--out", "no/x.pth"], "there is no folder no"),
        (["a.pth", "--to", "ours", "--out", "a.pth"], "that is the file itself"),
        (["a.pth", "--to", "slowfast", "--out", "x.pyth"], "ResNet is no network of slowfast, which has slowonly"),
        ([".", "--to", "ours", "--out", "x.pth"], "no model.safetensors in it"),
        (
            ["gst.pth", "--to", "mmaction2", "--out", "x.pth"],
            "gst is no network of mmaction2, which has tsn, tsm, slowonly",
        ),
    ],
)
def test_mistakes_are_one_line(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(torchvision_names().make(), "a.pth")
    torch.save({"state_dict": torchvision_names("base_model.", "new_fc", "gst", volumes=True).make()}, "gst.pth")
    before = sorted(tmp_path.iterdir())
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and sorted(tmp_path.iterdir()) == before


def test_options_are_parsed_before_torch_is_imported():
    program = "import sys\nfrom model.convert import main\ntry:\n    main({})\nexcept SystemExit as end:\n"
    program += "    print('torch' in sys.modules, end.code)"
    for arguments, code in ((["--help"], 0), (["a.pth", "--to", "keras", "--out", "b"], 2)):
        done = subprocess.run([sys.executable, "-c", program.format(arguments)], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == f"False {code}", done.stderr


def test_what_is_not_taken_is_said_whatever_it_becomes(tmp_path):
    state = torchvision_names().make()
    torch.save({"state_dict": state, "state_dict_ema": state}, tmp_path / "both.pth")
    for to in ("ours", "torchvision"):
        lines = convert(tmp_path / "both.pth", to, tmp_path / f"{to}.safetensors")
        assert any("state_dict_ema" in line for line in lines), to
