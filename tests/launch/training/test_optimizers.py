"""Optimizers against the formulas in float64, against torch's own at their limits, and through saving and loading."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from launch.training.optimizer_config import LcamConfig, SecondMomentConfig
from launch.training.optimizers import Lcam, SecondMomentExponent

SHAPES = ((3, 4), (5,), ())
STEPS_PER_EPOCH = 7


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in SHAPES]


def gradient(step, index, dtype=torch.float64):
    generator = torch.Generator().manual_seed(100 * step + index)
    return torch.randn(SHAPES[index], generator=generator, dtype=torch.float64).to(dtype)


def loss_of(step):
    """Losses that fall and leap, so that some are below their epoch's mean and some above."""
    return 2.0 - 0.02 * step + np.random.default_rng(step).normal()


def take(optimizer, params, steps):
    for step in steps:
        for index, parameter in enumerate(params):
            parameter.grad = gradient(step, index, parameter.dtype)
        if isinstance(optimizer, Lcam):
            optimizer.note_loss(torch.tensor(loss_of(step), dtype=torch.float64), *divmod(step, STEPS_PER_EPOCH))
        optimizer.step()


def groups(params):
    return [{"params": params[:2], "weight_decay": 0.1}, {"params": params[2:], "lr": 0.02}]


def assert_same(params, expected, **tolerance):
    for parameter, value in zip(params, expected):
        torch.testing.assert_close(parameter.detach(), torch.as_tensor(value).to(parameter.dtype), **tolerance)


def lcam_by_hand(num_steps, low, high, nesterov=False, lr=0.05):
    """The same in NumPy: lists of all losses, no buffers in place."""
    values = [parameter.detach().numpy() for parameter in parameters(torch.float64)]
    buffers, momentum, seen, momenta = [np.zeros(shape) for shape in SHAPES], high, [], []
    for step in range(num_steps):
        if step % STEPS_PER_EPOCH == 0:
            seen = []
        momenta.append(momentum)
        for i, (decay, rate) in enumerate(((0.1, lr), (0.1, lr), (0.0, 0.02))):
            slope = gradient(step, i).numpy() + decay * values[i]
            buffers[i] = momentum * buffers[i] + slope
            values[i] = values[i] - rate * (slope + momentum * buffers[i] if nesterov else buffers[i])
        seen.append(loss_of(step))
        momentum = low if seen[-1] < np.mean(seen) else high
    return values, momenta


@pytest.mark.parametrize("nesterov", [False, True])
def test_lcam_is_its_definition(nesterov):
    params = parameters(torch.float64)
    take(Lcam(groups(params), 0.05, 0.6, 0.95, nesterov), params, range(30))
    expected, momenta = lcam_by_hand(30, 0.6, 0.95, nesterov)
    assert {0.6, 0.95} == set(momenta[1:])
    assert_same(params, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lcam_of_equal_momenta_is_sgd(nesterov):
    params, others = parameters(), parameters()
    take(Lcam(groups(params), 0.05, 0.9, 0.9, nesterov), params, range(30))
    take(torch.optim.SGD(groups(others), 0.05, 0.9, nesterov=nesterov), others, range(30))
    assert_same(params, others)


def test_several_losses_of_a_step_count_as_their_mean():
    params, others = parameters(torch.float64), parameters(torch.float64)
    whole, parts = Lcam(params, 0.05, 0.5, 0.9), Lcam(others, 0.05, 0.5, 0.9)
    for step in range(20):
        for optimizer, mine, halves in ((whole, params, (0.0,)), (parts, others, (-0.7, 0.7))):
            for index, parameter in enumerate(mine):
                parameter.grad = gradient(step, index)
            for half in halves:
                optimizer.note_loss(torch.tensor(loss_of(step) + half, dtype=torch.float64), 0, step)
            optimizer.step()
    assert_same(params, others)


def test_a_step_for_each_group_is_a_step():
    """As ZeRO takes it: the optimizer sees one group at a time."""
    params, others = parameters(torch.float64), parameters(torch.float64)
    whole, parts = Lcam(groups(params), 0.05, 0.5, 0.9), Lcam(groups(others), 0.05, 0.5, 0.9)
    take(whole, params, range(20))
    for step in range(20):
        for index, parameter in enumerate(others):
            parameter.grad = gradient(step, index)
        parts.note_loss(torch.tensor(loss_of(step), dtype=torch.float64), *divmod(step, STEPS_PER_EPOCH))
        all_groups = parts.param_groups
        for group in all_groups:
            parts.param_groups = [group]
            parts.step()
        parts.param_groups = all_groups
    assert_same(params, others, rtol=0, atol=0)


def second_moment_by_hand(num_steps, exponent, lr=0.05, beta1=0.8, beta2=0.99, eps=1e-6):
    """Moving averages written out as the weighted sums that they are."""
    values = [parameter.detach().numpy() for parameter in parameters(torch.float64)]
    slopes = [[] for _ in SHAPES]
    for step in range(num_steps):
        for i, (decay, rate) in enumerate(((0.1, lr), (0.1, lr), (0.0, 0.02))):
            slopes[i].append(gradient(step, i).numpy() + decay * values[i])
            ages = np.arange(step, -1, -1)
            first, second = ((1 - beta) * beta**ages / (1 - beta ** (step + 1)) for beta in (beta1, beta2))
            mean = sum(weight * slope for weight, slope in zip(first, slopes[i]))
            square = sum(weight * slope**2 for weight, slope in zip(second, slopes[i]))
            values[i] = values[i] - rate * mean / (square**exponent + eps)
    return values


@pytest.mark.parametrize("exponent", [0.0, 0.25, 0.5, 1.0])
def test_second_moment_is_its_definition(exponent):
    params = parameters(torch.float64)
    take(SecondMomentExponent(groups(params), 0.05, (0.8, 0.99), exponent, 1e-6), params, range(30))
    assert_same(params, second_moment_by_hand(30, exponent), rtol=1e-9, atol=1e-11)


def test_second_moment_of_one_half_is_adam():
    params, others = parameters(), parameters()
    take(SecondMomentExponent(groups(params), 0.05, (0.9, 0.999), 0.5), params, range(30))
    take(torch.optim.Adam(groups(others), 0.05, (0.9, 0.999)), others, range(30))
    assert_same(params, others, rtol=1e-5, atol=1e-6)


def test_second_moment_of_zero_is_sgd_with_momentum():
    params, others = parameters(), parameters()
    take(SecondMomentExponent(params, 0.05, (0.9, 0.999), 0.0, eps=0.0, weight_decay=0.1), params, range(30))
    sgd = torch.optim.SGD(others, 0.0, 0.9, weight_decay=0.1)
    for step in range(30):
        sgd.param_groups[0]["lr"] = 0.05 * (1 - 0.9) / (1 - 0.9 ** (step + 1))
        take(sgd, others, [step])
    assert_same(params, others, rtol=1e-5, atol=1e-6)


def test_second_moment_of_zero_is_sgd_only_in_the_limit():
    """Of a constant gradient the first update is 10 times that of SGD with 1/10 of the rate, and the last the same."""
    params, others = ([nn.Parameter(torch.zeros((), dtype=torch.float64))] for _ in range(2))
    optimizer = SecondMomentExponent(params, 0.05, (0.9, 0.999), 0.0, eps=1e-12)
    sgd = torch.optim.SGD(others, 0.05 * (1 - 0.9), 0.9)
    ratios = []
    for _ in range(150):
        before = params[0].item(), others[0].item()
        params[0].grad, others[0].grad = (torch.ones((), dtype=torch.float64) for _ in range(2))
        optimizer.step()
        sgd.step()
        ratios.append((params[0].item() - before[0]) / (others[0].item() - before[1]))
    assert ratios[0] == pytest.approx(10) and ratios[-1] == pytest.approx(1, abs=1e-5)
    assert ratios[9] == pytest.approx(1.5, abs=0.05)


def test_gradients_of_zero_leave_parameters_as_they_are():
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.zeros(3)
    SecondMomentExponent([parameter], 0.1, exponent=0.25).step()
    assert torch.equal(parameter, torch.ones(3))


BUILDERS = [
    lambda params: Lcam(groups(params), 0.05, 0.6, 0.95),
    lambda params: SecondMomentExponent(groups(params), 0.05),
]


@pytest.mark.parametrize("build", BUILDERS, ids=["lcam", "second_moment"])
@pytest.mark.parametrize("way", ["state_dict", "deepcopy"])
def test_saved_within_an_epoch_it_goes_on_bit_for_bit(build, way):
    params = parameters()
    optimizer = build(params)
    take(optimizer, params, range(11))  # the fourth step of the second epoch
    if way == "deepcopy":
        optimizer_again = copy.deepcopy(optimizer)
        again = [parameter for group in optimizer_again.param_groups for parameter in group["params"]]
    else:
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        again = [nn.Parameter(parameter.detach().clone()) for parameter in params]
        optimizer_again = build(again)
        optimizer_again.load_state_dict(torch.load(file, weights_only=True))
    take(optimizer, params, range(11, 30))
    take(optimizer_again, again, range(11, 30))
    assert_same(again, params, rtol=0, atol=0)


def test_the_mean_of_the_epoch_is_part_of_the_state():
    params = parameters()
    optimizer = Lcam(params, 0.05)
    take(optimizer, params, range(11))
    total, number, *_ = optimizer.state_dict()["param_groups"][0]["losses"].tolist()
    assert number == 3  # the fourth is under way until the next one begins
    assert total / number == pytest.approx(np.mean([loss_of(step) for step in (7, 8, 9)]))


def test_parameters_without_gradient_are_left_alone():
    for build in BUILDERS:
        params = parameters()
        optimizer = build(params)
        before = params[1].detach().clone()
        take(optimizer, params, [0])
        changed = params[1].detach().clone()
        assert not torch.equal(before, changed)
        params[1].grad = None
        optimizer.step()
        assert torch.equal(params[1], changed)


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (LcamConfig, {"momentum_low": 1.0}, r"optimizer\.lcam\.momentum_low=1\.0: use 0 <= momentum_low < 1"),
        (SecondMomentConfig, {"exponent": 1.5}, r"exponent=1\.5: use 0 <= exponent <= 1"),
        (SecondMomentConfig, {"decay": 1.0}, r"decay=1\.0: use 0 <= decay < 1"),
        (SecondMomentConfig, {"epsilon": -1.0}, r"epsilon=-1\.0: use more than 0"),
        (SecondMomentConfig, {"epsilon": 0.0}, r"optimizer\.second_moment\.epsilon=0\.0: use more than 0"),
        (SecondMomentConfig, {"epsilon": float("nan")}, r"epsilon=nan: use more than 0"),
    ],
)
def test_values_out_of_range_are_refused(config, values, message):
    with pytest.raises(ValueError, match=message):
        config(**values)
