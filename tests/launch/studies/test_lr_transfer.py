"""Learning-rate transfer: its arithmetic on made curves, its networks and updates by hand, and the whole command."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from launch.studies.lr_transfer.study import (
    EXPONENT,
    Measurement,
    TransferConfig,
    conclude,
    fit_law,
    layers_of,
    main,
    measure_all,
    search,
    vertex,
)
from launch.studies.lr_transfer.task import TaskConfig, build_network, draw_batch, mean_square_update, train
from sharding.errors import UserError
from tests.conftest import ROOT

SMALL = TaskConfig(width=6, image_size=6, batch_size=4, steps=5)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("first", [1e-4, 0.02, 5.0])
def test_the_search_finds_the_best_of_the_grid_from_anywhere(first):
    tried = []

    def loss_at(rate):
        tried.append(rate)
        return math.inf if rate > 0.5 else (math.log10(rate) + 1.6) ** 2

    losses = search(loss_at, first, 4)
    assert min(losses, key=losses.get) == pytest.approx(10**-1.5)
    assert sorted(tried) == sorted(losses) and len(set(tried)) == len(tried)
    places = 4 * np.log10(sorted(losses))
    np.testing.assert_allclose(places, np.round(places), atol=1e-9)
    best = sorted(losses).index(min(losses, key=losses.get))
    assert best >= 2 and best <= len(losses) - 3


def test_a_search_without_end_is_refused():
    with pytest.raises(UserError, match=r"--first_rate 0\.1: no best learning rate within 60"):
        search(lambda rate: -math.log(rate), 0.1, 4)


@pytest.mark.parametrize("best", [0.01, 0.013, 0.0172])
def test_the_vertex_of_a_parabola_is_found_between_the_rates(best):
    losses = {10 ** (i / 4): 0.3 * math.log(10 ** (i / 4) / best) ** 2 + 1 for i in range(-12, -4)}
    assert vertex(losses) == pytest.approx(best)


def test_beside_a_diverged_training_the_best_rate_stands():
    assert vertex({0.1: 2.0, 0.2: 1.0, 0.4: math.inf}) == 0.2


def test_laws_are_found_again():
    layers = [4, 6, 10]
    rates = [0.7 * count**-1.3 for count in layers]
    law = fit_law(layers, rates)
    assert (law.kappa, law.exponent) == pytest.approx((0.7, -1.3))
    assert law(18) == pytest.approx(0.7 * 18**-1.3)
    given = fit_law(layers, rates, EXPONENT)
    assert given.kappa == pytest.approx(np.mean([0.7 * count**0.2 for count in layers]))


def test_the_exponent_depends_on_what_is_counted():
    """The measurements behind docs/am_mup.md, over L = K + 2 and over K."""
    measured = json.loads((ROOT / "docs" / "am_mup.json").read_text())["measured"]
    rates = [each["best_rate"] for each in measured]
    over_layers = fit_law([each["layers"] for each in measured], rates).exponent
    over_blocks = fit_law([each["depth"] for each in measured], rates).exponent
    assert (round(over_layers, 2), round(over_blocks, 2)) == (-1.40, -1.10)
    page = (ROOT / "docs" / "am_mup.md").read_text()
    assert "L^-1.40" in page and "K^-1.10" in page


def test_what_is_held_out_takes_no_part_in_the_laws():
    config = TransferConfig(SMALL, depths=(1, 2), held_out=(3,), predict=(30,))
    found = [
        Measurement(depth, depth + 2, rate, 1.0, {}, update) for depth, rate, update in ((1, 0.3, 1.0), (2, 0.2, 2.0))
    ]
    held_out = Measurement(3, 5, 0.05, 1.5, {}, 3.0)
    conclusion = conclude(config, [*found, held_out])
    fitted, theory = conclusion["laws"]["fitted"], conclusion["laws"]["theory"]
    assert fitted["kappa"] * 3 ** fitted["exponent"] == pytest.approx(0.3)
    assert fitted["kappa"] * 4 ** fitted["exponent"] == pytest.approx(0.2)
    assert theory["kappa"] == pytest.approx((0.3 * 3**1.5 + 0.2 * 4**1.5) / 2)
    [entry] = conclusion["held_out"]
    rate = entry["predicted"]["theory"]["rate"]
    assert rate == pytest.approx(theory["kappa"] * 5**-1.5)
    assert entry["predicted"]["theory"]["over_best"] == pytest.approx(rate / 0.05)
    assert entry["predicted"]["theory"]["loss"] == train(SMALL, 3, rate)
    assert conclusion["predicted"][0]["theory"] == pytest.approx(theory["kappa"] * 32**-1.5)


def test_layers_of_the_shortest_path():
    assert [layers_of("residual", 8), layers_of("plain", 8)] == [10, 8]
    assert [layers_of("resnet", depth) for depth in (18, 34, 50, 101)] == [10, 18, 18, 35]


def test_residual_networks_are_what_they_say():
    torch.manual_seed(0)
    config = TaskConfig(width=64)
    net = build_network(config, 4)
    stem, *branches, classifier, bias = net.parameters()
    assert stem.std().item() == pytest.approx(math.sqrt(2 / 27), rel=0.1)
    images, _ = draw_batch(config, 0, 0)
    x = F.conv2d(images, stem, padding=1)
    for weight in branches:
        assert weight.std().item() == pytest.approx(math.sqrt(2 / (4 * 9 * 64)), rel=0.02)
        x = x + F.conv2d(x.relu(), weight, padding=1)
    expected = x.relu().mean((2, 3)) @ classifier.T + bias
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "convolutions"),
    [
        ({"network": "plain"}, 3),
        ({"branch_convolutions": 2}, 7),
        ({"batch_norm": True}, 4),
        ({"init": "kaiming"}, 4),
    ],
)
def test_the_other_networks_have_so_many_convolutions(options, convolutions):
    config = TaskConfig(width=16, **options)
    net = build_network(config, 3)
    weights = [parameter for parameter in net.parameters() if parameter.ndim == 4]
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(weights) == convolutions
    assert len(norms) == (convolutions - 1 if config.batch_norm else 0)
    scale = 3 if config.network == "residual" and config.init == "am_mup" else 1
    assert weights[-1].std().item() == pytest.approx(math.sqrt(2 / (scale * 9 * 16)), rel=0.1)


def test_images_are_the_same_every_time_and_no_mean_tells_their_class():
    config = TaskConfig(batch_size=4000, noise=0.0)
    images, labels = draw_batch(config, 0, 3)
    assert torch.equal(images, draw_batch(config, 0, 3)[0])
    assert not torch.equal(images, draw_batch(config, 1, 3)[0])
    assert labels.bincount().min() > 300
    for label in range(10):
        assert images[labels == label].mean(0).abs().max() < 0.35


def test_training_learns_diverges_and_repeats():
    config = TaskConfig(width=16, steps=40)
    assert train(config, 2, 0.1) == train(config, 2, 0.1) < train(config, 2, 1e-5)
    assert train(config, 2, 1e4) == math.inf


def test_updates_are_the_derivative_along_the_gradient():
    """For a rate near zero the change of z is minus the derivative of z along the gradient of the loss."""
    torch.manual_seed(0)
    net = build_network(SMALL, 2).double()
    images, labels = draw_batch(SMALL, 0, 0)
    values = tuple(net.parameters())

    def layers(*values):
        stem, first, second = values[:3]
        z = [F.conv2d(images.double(), stem, padding=1)]
        for weight in (first, second):
            z.append(z[-1] + F.conv2d(z[-1].relu(), weight, padding=1))
        return tuple(z)

    def loss(*values):
        return F.cross_entropy(layers(*values)[-1].relu().mean((2, 3)) @ values[3].T + values[4], labels)

    gradients = torch.autograd.grad(loss(*values), values)
    _, changes = torch.autograd.functional.jvp(layers, values, gradients)
    expected = np.mean([float(change.square().mean()) for change in changes])
    assert mean_square_update(SMALL, 2, draws=1) == pytest.approx(expected, rel=1e-3)


@pytest.mark.studies
def test_updates_of_residual_networks_grow_with_the_cube_of_depth():
    """So equal updates want rates that fall with L^(-3/2), within the range that was published for best rates."""
    config = TaskConfig(width=32)
    depths = (4, 8, 16, 32)
    law = fit_law(
        [depth + 2 for depth in depths], [mean_square_update(config, depth, draws=16) ** -0.5 for depth in depths]
    )
    assert -1.70 < law.exponent < -1.13


@pytest.mark.slow
def test_the_law_holds_for_best_rates():
    found = measure_all(TransferConfig(held_out=(16,)))
    law = fit_law([m.layers for m in found], [m.best_rate for m in found])
    assert -1.70 < law.exponent < -1.13


def test_the_command_writes_a_picture_and_json(tmp_path, capsys):
    small = ["--task.width=6", "--task.image_size=6", "--task.batch_size=4", "--task.steps=5"]
    out = tmp_path / "new" / "law.png"
    main([f"--out={out}", "--depths=[1,2]", "--held_out=[3]", "--predict=[9]", *small])
    assert out.read_bytes().startswith(b"\x89PNG")
    results = json.loads(out.with_suffix(".json").read_text())
    assert [m["depth"] for m in results["measured"]] == [1, 2, 3]
    assert [m["layers"] for m in results["measured"]] == [3, 4, 5]
    assert results["predicted"][0]["layers"] == 11
    assert results["config"]["task"]["width"] == 6
    printed = capsys.readouterr().out
    assert str(out) in printed and "L = 11: learning rate" in printed


@pytest.mark.studies
def test_resnets_are_measured_too(tmp_path):
    small = ["--task.network=resnet", "--task.image_size=32", "--task.batch_size=2", "--task.steps=1"]
    out = tmp_path / "resnet.png"
    main([f"--out={out}", "--depths=[18]", "--held_out=[]", "--predict=[101]", "--rates_per_decade=1", *small])
    results = json.loads(out.with_suffix(".json").read_text())
    assert results["predicted"][0]["layers"] == 35
    assert list(results["laws"]) == ["theory"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--depths=[4,2]"], "--depths [4, 2]: use rising depths"),
        (["--held_out=[8]"], "--held_out [8]: use depths above those of --depths"),
        (["--task.network=resnet"], "--depths [2, 4, 8, 16]: allowed for --task.network resnet are 18, 34, 50, 101"),
        (["--task.network=plain", "--task.init=kaiming"], "has no residual branches"),
        (["--task.momentum=1"], "--task.momentum 1.0: use 0 <= momentum < 1"),
        (["--task.widht=3"], "did you mean --task.width?"),
        (["--out=law.svg"], "use a name that ends in .png"),
    ],
)
def test_mistakes_are_one_line(tmp_path, options, message):
    out = [] if options[0].startswith("--out") else [f"--out={tmp_path / 'law.png'}"]
    with pytest.raises(UserError) as caught:
        main([*out, *options])
    assert message in str(caught.value) and "\n" not in str(caught.value)
