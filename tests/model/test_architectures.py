"""One battery over every registered architecture and depth.

Short networks of each architecture, of two blocks in the first stage and one in the others, run always, those of all
depths with `-m slow`. Compiled short networks stop at the traced graph unless `-m slow`. What must be equal is compared
in float64, for deep networks with random weights multiply every rounding.
"""

import copy
import io

import pytest
import torch
from torch import nn

from model.config import DEPTHS

FRAMES, SIZE, CLASSES = 4, 32, 5
# P3D has blocks of all three kinds.
COVERED = ("p3d_a", "p3d_b", "p3d_c")


def short(arch, always=True):
    marks = () if always and arch not in COVERED else pytest.mark.slow
    return pytest.param(arch, DEPTHS[arch][0], "short", id=f"{arch}-short", marks=marks)


def complete(arch, depth):
    return pytest.param(arch, depth, "complete", id=f"{arch}-{depth}", marks=pytest.mark.slow)


def over(networks):
    return pytest.mark.parametrize(("arch", "depth", "length"), networks, indirect=["length"])


SHORT = [short(arch) for arch in DEPTHS]
ALL = SHORT + [complete(arch, depth) for arch, depths in DEPTHS.items() for depth in depths]
SHALLOWEST = [complete(arch, depths[0]) for arch, depths in DEPTHS.items()]


@pytest.fixture
def length(request):
    if request.param == "short":
        request.getfixturevalue("short_networks")


def clips_of(batch=2, frames=FRAMES):
    return torch.randn(batch, frames, SIZE, SIZE, 3).permute(0, 1, 4, 2, 3)


@over(ALL)
def test_every_parameter_gets_a_gradient(build, length, arch, depth):
    net = build(arch, depth, calibrate=False)
    outputs = net(clips_of(), with_losses=True)
    assert outputs.logits.shape == (2, CLASSES)
    nn.functional.cross_entropy(outputs.logits, torch.tensor([1, 3])).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@over(ALL)
def test_a_clip_stands_for_itself(build, length, arch, depth):
    net = build(arch, depth).double().eval()
    clips = clips_of(batch=3).double()
    others = clips.clone()
    others[[0, 2]] = torch.randn_like(others[[0, 2]])
    with torch.no_grad():
        logits = net(clips)
        torch.testing.assert_close(net(clips), logits, rtol=0, atol=0)
        torch.testing.assert_close(net(others)[1], logits[1])
        torch.testing.assert_close(net(clips[1:2])[0], logits[1])
        spread = (logits - logits.mean(0)).abs().max()
        turned = (net(clips.flip(1)) - logits).abs().max() / spread
    # The order of the frames is nothing to TSN, and something to every other network.
    assert turned < 1e-4 if arch == "tsn" else turned > 1e-3


@over(ALL)
def test_bf16_autocast_is_close_to_float32(build, length, arch, depth):
    net = build(arch, depth, calibrate=False)
    clips = clips_of(batch=8)
    last_bn = ".bn3.weight" if depth >= 50 else ".bn2.weight"
    with torch.no_grad():
        # A deep random ResNet multiplies every rounding; with weaker residual branches, as after training, it does not.
        for name, parameter in net.named_parameters():
            if name.endswith(last_bn):
                parameter.mul_(0.2)
        net(clips)
        net.eval()
        exact = net(clips)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = net(clips)
    assert rounded.dtype == torch.bfloat16
    allowed = {18: 0.05, 34: 0.1, 50: 0.15, 101: 0.25}[depth]
    assert (rounded.float() - exact).norm() < allowed * exact.norm()


@over(ALL)
def test_the_state_makes_a_round_trip(build, length, arch, depth):
    net, again = build(arch, depth).eval(), build(arch, depth, calibrate=False).eval()
    clips = clips_of()
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    with torch.no_grad():
        assert not torch.equal(again(clips), net(clips))
        again.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(again(clips), net(clips))
        assert torch.equal(copy.deepcopy(net)(clips), net(clips))


@over(SHORT)
@pytest.mark.parametrize("frames", [1, 8])
def test_clips_of_other_lengths(build, length, arch, depth, frames):
    frames = 32 if arch == "dg_p3d" and frames == 1 else frames  # its stem needs four
    net = build(arch, depth, frames, calibrate=False)
    assert net(clips_of(frames=frames)).isfinite().all()


@over([short(arch, arch in ("vpsn", "tsm", "tea", "dg_p3d")) for arch in DEPTHS])
def test_short_compiled_networks_equal_eager(build, length, arch, depth):
    check_compiled(build(arch, depth, calibrate=False), backend="eager")


@pytest.mark.parametrize("arch", ["tsn", "vpsn", "tsm"])
def test_short_exported_networks_equal_eager(build, short_networks, arch):
    check_exported(build(arch, 18))


@over(SHALLOWEST)
def test_whole_compiled_and_exported_networks_equal_eager(build, length, arch, depth):
    check_compiled(build(arch, depth), backend="aot_eager")
    check_exported(build(arch, depth))


@pytest.mark.slow
@over(SHORT)
def test_short_networks_compiled_to_machine_code_equal_eager(build, length, arch, depth):
    check_compiled(build(arch, depth), backend="inductor")


def check_compiled(net, backend):
    """Losses and gradients of a training step, without a break in the graph; beyond tracing also logits."""
    net, clips, target = net.double(), clips_of().double(), torch.tensor([0, 1])
    reference = copy.deepcopy(net)
    torch.compiler.reset()
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    for module, call in ((reference, reference), (net, compiled)):
        outputs = call(clips, with_losses=True)
        (
            nn.functional.cross_entropy(outputs.logits, target) + outputs.interaction_loss + outputs.capacity_loss
        ).backward()
        module.outputs = outputs
    for actual, expected in zip(net.outputs, reference.outputs):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    for (name, actual), expected in zip(net.named_parameters(), reference.parameters()):
        error = (actual.grad - expected.grad).norm() / expected.grad.norm().clamp(min=1e-6)
        assert error < 1e-4, name
    if backend != "eager":
        with torch.no_grad():
            torch.testing.assert_close(compiled.eval()(clips), reference.eval()(clips), rtol=1e-5, atol=1e-6)


def check_exported(net):
    net, clips = net.double().eval(), clips_of().double()
    exported = torch.export.export(net, (clips,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(clips), net(clips))
