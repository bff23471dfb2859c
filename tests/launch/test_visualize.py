"""Pictures: what is in them, and that the commands draw them."""

import json
import shlex
import shutil
import sys

import numpy as np
import pytest
import torch

from launch.training.builders import build_network
from launch.training.checkpoint import CheckpointInfo, find_checkpoint, load_checkpoint, write_checkpoint
from launch.training.config import Config
from launch.visualization.gradcam import compute_gradcam, restore_pixels
from launch.visualization.plots import draw_frames, draw_heat, kernel_names, share_before
from launch.visualize import main
from model import ModelConfig, SynthesizerConfig, build_model
from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from pipeline.reading import read_media
from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.video.decode import decode_frames
from tests.conftest import run_command
from tests.launch.conftest import train_alone

PNG = b"\x89PNG\r\n\x1a\n"
SEGMENTS = 4


def build(arch: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    net = build_model(ModelConfig(arch=arch, depth=18, num_classes=3, num_segments=SEGMENTS, **options))
    torch.nn.init.normal_(net.fc.weight)
    return net.eval()


def naive_gradcam(net, clips, target, layer) -> torch.Tensor:
    """relu(sum_c mean_hw(d logit / d A_c) A_c) of each frame, from the definition: (B, T, h, w)."""
    kept = []
    handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    logits = net(clips)
    handle.remove()
    [gradients] = torch.autograd.grad(logits[:, target].sum(), kept)
    maps = (gradients.mean((2, 3), keepdim=True) * kept[0]).sum(1).relu()
    return maps.unflatten(0, (-1, SEGMENTS)).detach()


@pytest.mark.parametrize("arch", ["vpsn", "tsn", "tsm"])
@pytest.mark.parametrize("stage", ["layer3", "layer4"])
def test_gradcam_is_that_of_the_paper_for_each_frame(arch, stage):
    pytest.importorskip("captum")
    net = build(arch)
    clips = torch.randn(2, SEGMENTS, 3, 64, 64)
    heat = compute_gradcam(net, clips, 1, stage)
    layer = net.synthesizers[stage] if stage in net.synthesizers else getattr(net, stage)
    expected = naive_gradcam(net, clips, 1, layer)
    expected = torch.nn.functional.interpolate(expected, (64, 64), mode="bilinear")
    expected = expected / expected.amax((1, 2, 3), keepdim=True)
    assert heat.shape == (2, SEGMENTS, 64, 64)
    torch.testing.assert_close(heat, expected, rtol=1e-3, atol=1e-4)
    assert heat.std() > 0.01


def test_gradcam_looks_where_the_class_comes_from():
    """Only one corner of one frame is not black, and whatever is active speaks for class 1."""
    pytest.importorskip("captum")
    net = build("tsn")
    clips = torch.zeros(1, SEGMENTS, 3, 64, 64)
    clips[0, 2, :, :16, :16] = 3 * torch.randn(3, 16, 16)
    for parameter in net.fc.parameters():
        torch.nn.init.zeros_(parameter)
    net.fc.weight.data[1] = 1
    heat = compute_gradcam(net, clips, 1, "layer2")[0]
    brightest = heat.amax((1, 2))
    assert brightest.argmax() == 2
    top, left = divmod(int(heat[2].argmax()), 64)
    assert top < 32 and left < 32


def test_where_the_stem_strides_over_time_a_map_stands_for_several_frames():
    pytest.importorskip("captum")
    torch.manual_seed(0)
    net = build_model(ModelConfig("dg_p3d", 50, 3, 8, dropout=0.0)).eval()
    torch.nn.init.normal_(net.fc.weight)
    heat = compute_gradcam(net, torch.randn(2, 8, 3, 64, 64), 1, "layer4")
    assert heat.shape == (2, 8, 64, 64)
    for first in (0, 4):
        assert torch.equal(heat[:, first : first + 4], heat[:, first : first + 1].expand(-1, 4, -1, -1))


@pytest.mark.parametrize("statistics", [{}, {"mean": (0.45, 0.4, 0.35), "std": (0.225, 0.2, 0.5)}])
def test_pictures_of_clips_are_the_frames(motion, statistics):
    dataset = load_dataset(motion / "val")
    data = DataConfig(num_segments=SEGMENTS, short_side=32, crop_size=32, **statistics)
    batch = next(iter(VideoLoader(dataset, data, training=False, micro_batch_size=1)))
    frames = decode_frames(read_media(dataset, 0), np.array([0, 2, 3, 5]))  # the middles of four parts of six frames
    assert np.array_equal(restore_pixels(batch.clips[0], data), frames)


def test_kernels_are_named_by_the_configuration():
    spatial, temporal = kernel_names(SynthesizerConfig(receptive_field="5x5x7", pooling="avg"))
    assert spatial == ["S-I", "S-C-3", "S-C-5", "S-A-3"]
    assert temporal == ["T-I", "T-C-3", "T-C-7", "T-A-3"]


def test_frames_count_with_the_share_of_them_that_lies_before():
    # Of 4 frames the second lies in [1/4, 2/4), of 2 frames the first in [0, 1/2).
    shares = share_before(np.array([0, 0.25, 0.375, 0.5, 1]), frames=np.array([1, 0]), lengths=np.array([4, 2]))
    assert shares.tolist() == [0, 0.25, 0.625, 1, 1]


def test_odd_numbers_of_frames_are_drawn(tmp_path):
    draw_frames(np.array([1, 2, 3]), num_segments=1, epochs=1, title="", path=tmp_path / "one.png")
    pictures, heat = np.zeros((11, 8, 12, 3), np.uint8), np.ones((11, 8, 12))
    draw_heat(pictures, heat, ["x"] * 11, "$x^$.mp4", tmp_path / "heat.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heat.png", "one.png"]


@pytest.mark.slow
def test_commands_draw(trained, motion, tmp_path):
    pytest.importorskip("captum")
    video = next((motion / "videos" / "val" / "left").glob("*.mp4"))
    for arguments in (
        ["synthesizers", trained, "--relative-to-init"],
        ["gradcam", trained, video, "--class_name=right", "--stage=layer3"],
        ["frames", motion / "train", "--num_segments=4", "--epochs=2"],
        ["clips", trained, "--num-clips=2"],
    ):
        out = tmp_path / f"{arguments[0]}.png"
        command = [sys.executable, "launch/visualize.py", *arguments, f"--out={out}"]
        done = run_command(command, fresh=arguments[0] == "frames")
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(out)
        assert out.read_bytes().startswith(PNG)


@pytest.mark.slow
def test_a_report_grows_with_the_run(trained, motion, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    main(["report", str(run)])
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    page = (run / "report.html").read_text()
    evaluate = shlex.join(["launch/evaluate.py", "--checkpoint", str(run), "--data", f"{motion}/val"])
    assert "finished" in page and evaluate in page and 'id="matrix"' not in page
    done = run_command([sys.executable, *shlex.split(evaluate)])
    assert done.returncode == 0, done.stderr
    main(["report", str(run), "--mistakes=2"])
    page = (run / "report.html").read_text()
    values = json.loads(next(run.rglob("evaluation.json")).read_text())
    wrong = round((1 - values["top1"]) * 5)
    assert f"{100 * values['top1']:.2f} %" in page and 'id="matrix"' in page
    assert page.count("<article>") == min(2, wrong)
    assert page.count("data:image/jpeg") == 6 * min(2, wrong)  # the videos have six frames


@pytest.mark.slow
def test_the_start_of_a_run_is_what_its_seed_gives(small_config, tmp_path):
    """Training with a learning rate too small to change anything ends where it began."""
    run_dir = tmp_path / "run"
    done = train_alone(small_config, run_dir, "--optimizer.learning_rate=1e-30", "--train.epochs=1", "--train.seed=3")
    assert done.returncode == 0, done.stderr
    net, _, config = load_checkpoint(run_dir)
    start = build_network(config)
    assert net.synthesizers
    for name, synthesizer in net.synthesizers.items():
        assert torch.equal(synthesizer.fusion_norms(), start.synthesizers[name].fusion_norms())


def test_bad_input_is_refused_before_the_work(trained, motion, tmp_path):
    pytest.importorskip("captum")
    video = str(next((motion / "videos" / "val" / "left").glob("*.mp4")))
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    for arguments, message in (
        (["gradcam", trained, text], "text.mp4: "),
        (["gradcam", trained, "absent.mp4"], "absent.mp4: no such file"),
        (["gradcam", trained, video, "--class_name=lefft"], "no such class; did you mean 'left'"),
        (["gradcam", trained, video, "--out=x.gif"], "ends in .png"),
        (["synthesizers", trained, "--out=/proc/x.png"], "/proc/x.png: cannot be written: "),
        (["synthesizers", tmp_path], "no checkpoint there"),
        (["frames", motion / "train", "--num-segments=1000000000"], "--num-segments 1000000000: use 1 to 10000"),
        (["frames", motion / "train", "--epochs=0"], "--epochs 0: use 1 or more"),
        (["frames", motion], "holds the splits"),
        (["clips", text], "text.mp4: not a resolved configuration"),
        (["clips", trained, "--num-clips=0"], "--num-clips 0: use 1 or more"),
        (["confusion", text], "not an evaluation.json"),
        (["curves", tmp_path], "no figures in metrics.jsonl"),
        (["report", trained, "--mistakes=-1"], "--mistakes -1: use 0 or more"),
    ):
        with pytest.raises(UserError) as caught:
            main([str(argument) for argument in arguments])
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_picture_beside_a_pointer_does_not_take_its_place(trained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for _ in range(2):
        main(["synthesizers", str(run / "best")])
        picture = find_checkpoint(run / "best") / "synthesizers.png"
        assert capsys.readouterr().out.strip() == str(picture)
        assert picture.read_bytes().startswith(PNG)


def test_a_fixed_fusion_is_not_said_to_have_changed(tmp_path):
    config = Config(model=ModelConfig("rf_l_inception", 18, 3, SEGMENTS))
    write_checkpoint(tmp_path, build("rf_l_inception"), CheckpointInfo(1, 1, ("a", "b", "c"), {}, ""), config)
    with pytest.raises(UserError, match=r": its fusion is fixed, so training cannot change it; leave"):
        main(["synthesizers", str(tmp_path), "--relative-to-init"])
