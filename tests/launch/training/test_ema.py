"""The moving average against its definition."""

import torch
from safetensors.torch import save_file
from torch import nn

from launch.training.ema import WeightEma

CPU = torch.device("cpu")


def make_net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


def disturb(net: nn.Module) -> None:
    with torch.no_grad():
        for value in net.state_dict().values():
            value.add_(torch.randn(value.shape).to(value.dtype) if value.is_floating_point() else 1)


def test_it_is_the_exponential_average_of_weights_and_buffers():
    net, decay = make_net(), 0.75
    average = WeightEma(net, decay, CPU)
    disturb(net)
    average.update()
    expected = {name: value.clone() for name, value in net.state_dict().items()}
    for _ in range(3):
        disturb(net)
        average.update()
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
    found = average.module.state_dict()
    for name, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(found[name], value)
    assert "1.running_var" in expected
    assert found["1.num_batches_tracked"] == net.state_dict()["1.num_batches_tracked"] == 4


def test_without_decay_it_is_the_network():
    net = make_net()
    assert WeightEma(net, 0.0, CPU).module is net


def test_it_goes_on_from_a_file(tmp_path):
    net = make_net()
    whole = WeightEma(net, 0.5, CPU)
    for _ in range(2):
        disturb(net)
        whole.update()
    save_file(whole.module.state_dict(), tmp_path / "model.safetensors")
    resumed = WeightEma(net, 0.5, CPU)
    resumed.load(tmp_path / "model.safetensors", 2)
    disturb(net)
    for average in (whole, resumed):
        average.update()
    for one, other in zip(whole.module.state_dict().values(), resumed.module.state_dict().values()):
        assert torch.equal(one, other)
