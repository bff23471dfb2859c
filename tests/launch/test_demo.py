"""The demo beside other jobs of the machine."""

import socket

import launch.demo as demo


def test_its_launchers_take_a_free_port(tmp_path, monkeypatch):
    commands = []
    (tmp_path / "val" / "turn_clockwise").mkdir(parents=True)
    (tmp_path / "val" / "turn_clockwise" / "video.mp4").touch()
    monkeypatch.setattr(demo, "VIDEOS", tmp_path)
    monkeypatch.setattr(demo, "run", commands.append)
    monkeypatch.setattr(demo, "summary", lambda seconds: "")
    demo.main([])
    launched = [command for command in commands if {"launch/train.py", "launch/evaluate.py"} & set(command)]
    assert len(launched) == 2
    for command in launched:
        [port] = (int(part.split("=")[1]) for part in command if part.startswith("--master_port="))
        assert port != 29500  # DeepSpeed's own, which every other job of the machine takes
        with socket.socket() as probe:
            probe.bind(("", port))
