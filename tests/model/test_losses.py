"""Eq. 2 and Eq. 3, written out, on this call's activations."""

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from model import ModelConfig, SynthesizerConfig, build_model
from model.synthesizer import GROUPS, Synthesizer

FRAMES = 3


def clips():
    return torch.randn(2, FRAMES, 3, 32, 32)


def make(**options):
    config = SynthesizerConfig(**options)
    return build_model(ModelConfig(depth=18, num_classes=5, num_segments=FRAMES, dropout=0.0, synthesizer=config))


@pytest.mark.parametrize("norm", ["sum", "mean"])
def test_losses_of_one_synthesizer_are_the_equations(norm):
    config = SynthesizerConfig(interaction_norm=norm, proportion=0.5)
    block = Synthesizer(64, FRAMES, config).double()
    x = torch.randn(4 * FRAMES, 64, 7, 6, dtype=torch.float64)
    fused = []
    block.fusion.register_forward_hook(lambda module, inputs, output: fused.append(output))
    losses = block(x, with_losses=True)[1]
    matrix, y = block.fusion.weight[:, :, 0, 0], fused[0].unflatten(0, (-1, FRAMES))
    c = 32 // GROUPS
    interaction = gate = capacity = 0
    for i in range(GROUPS):
        for j in range(GROUPS):
            norm_ij = matrix[i * c : (i + 1) * c, j * c : (j + 1) * c].abs().sum()
            gate += norm_ij.sigmoid() / GROUPS**2
            interaction -= (norm_ij / (c if norm == "mean" else 1)).sigmoid() / GROUPS**2
            for clip in y:
                y_i, y_j = (clip[:, k * c : (k + 1) * c].mean((0, 2, 3)) for k in (i, j))
                capacity += y_i @ y_j / y_i.norm() / y_j.norm() / len(y) / GROUPS**2
    torch.testing.assert_close(losses.interaction.double(), interaction.detach(), rtol=1e-5, atol=0, check_dtype=False)
    torch.testing.assert_close(losses.capacity.double(), capacity.detach(), rtol=1e-4, atol=1e-6, check_dtype=False)
    torch.testing.assert_close(losses.mean_gate.double(), gate.detach(), rtol=1e-5, atol=0, check_dtype=False)


def test_the_gradient_of_the_capacity_loss_is_that_of_the_equation():
    block = Synthesizer(64, FRAMES, SynthesizerConfig()).double()
    y = torch.randn(2 * FRAMES, 16, 7, 6, dtype=torch.float64, requires_grad=True)
    (actual,) = torch.autograd.grad(block.losses(y).capacity, y)
    means = y.unflatten(0, (-1, FRAMES)).mean((1, 3, 4)).unflatten(1, (GROUPS, -1))
    cosines = torch.nn.functional.cosine_similarity(means[:, :, None], means[:, None], dim=3)
    (expected,) = torch.autograd.grad(cosines.mean(), y)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-9)


def test_a_network_averages_its_synthesizers():
    net = make(interaction_norm="mean")
    outputs = net(clips(), with_losses=True)
    assert outputs.interaction_losses.shape == outputs.capacity_losses.shape == outputs.mean_gates.shape == (4,)
    assert net.synthesizer_names == ("stem", "layer1", "layer2", "layer3")
    torch.testing.assert_close(outputs.interaction_loss, outputs.interaction_losses.mean())
    torch.testing.assert_close(outputs.capacity_loss, outputs.capacity_losses.mean())
    assert not outputs.interaction_losses.requires_grad
    assert not outputs.mean_gates.requires_grad


def test_the_normalised_interaction_loss_has_a_gradient_where_the_literal_one_has_none():
    largest = {}
    for norm in ("sum", "mean"):
        net = make(interaction_norm=norm, proportion=1.0)
        net(clips(), with_losses=True).interaction_loss.backward()
        largest[norm] = net.synthesizers["layer3"].fusion.weight.grad.abs().max()
    assert largest["sum"] < 1e-6 < largest["mean"]


def test_each_loss_reaches_what_it_is_about():
    net = make(interaction_norm="mean")
    outputs = net(clips(), with_losses=True)
    outputs.interaction_loss.backward(retain_graph=True)
    reached = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert reached == {f"synthesizers.{stage}.fusion.weight" for stage in net.synthesizer_names}
    outputs.capacity_loss.backward()
    assert net.synthesizers["layer3"].spatial.small.weight.grad.abs().max() > 0
    assert net.conv1.weight.grad.abs().max() > 0
    assert net.fc.weight.grad is None


def test_logits_do_not_depend_on_whether_losses_are_asked_for():
    net, x = make().eval(), clips()
    assert torch.equal(net(x), net(x, with_losses=True).logits)


def test_losses_survive_activation_checkpointing():
    net, x = make(), clips()
    again = copy.deepcopy(net)
    # Running statistics are counted twice by recomputation; they are not compared.
    for module, call in ((net, net), (again, lambda *args: checkpoint(again, *args, use_reentrant=False))):
        outputs = call(x, True)
        (outputs.logits.square().sum() + outputs.interaction_loss + outputs.capacity_loss).backward()
        module.outputs = outputs
    torch.testing.assert_close(again.outputs, net.outputs, rtol=0, atol=0)
    for actual, expected in zip(again.parameters(), net.parameters()):
        torch.testing.assert_close(actual.grad, expected.grad)


def test_losses_of_two_halves_average_to_those_of_the_whole():
    """What data parallelism relies on: a mean over ranks is the mean over the global batch."""
    net = make().eval()
    x = torch.randn(4, FRAMES, 3, 32, 32)
    halves = [net(half, with_losses=True) for half in x.chunk(2)]
    whole = net(x, with_losses=True)
    torch.testing.assert_close(sum(half.capacity_loss for half in halves) / 2, whole.capacity_loss)
    torch.testing.assert_close(sum(half.interaction_loss for half in halves) / 2, whole.interaction_loss)


@pytest.mark.parametrize("fusion", ["grouping", "shuffle", "dropout"])
def test_fixed_fusions_have_losses_without_parameters(fusion):
    net = make(fusion=fusion)
    outputs = net(clips(), with_losses=True)
    assert not outputs.interaction_loss.requires_grad
    assert outputs.capacity_loss.requires_grad
    if fusion == "dropout":
        # Every temporal group gets the same channels.
        torch.testing.assert_close(outputs.capacity_loss, torch.tensor(1.0))
