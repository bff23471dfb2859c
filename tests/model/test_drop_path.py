"""Stochastic depth: which branches are dropped, how often, and that evaluation knows nothing of it."""

import pytest
import torch

from model import ModelConfig, build_model
from model.drop_path import DropPath
from model.resnet import BasicBlock, Block, BlockSpec

TINY = {"depth": 18, "num_classes": 3, "num_segments": 2, "dropout": 0.0}


def paths(net: torch.nn.Module) -> list[DropPath]:
    return [module for module in net.modules() if isinstance(module, DropPath)]


@pytest.mark.parametrize(
    ("arch", "depth", "segments"), [("vpsn", 18, 2), ("tsm", 34, 2), ("p3d", 50, 2), ("dg_p3d", 50, 8)]
)
def test_probabilities_rise_linearly_with_depth(arch, depth, segments):
    config = {"arch": arch, "depth": depth, "num_classes": 3, "num_segments": segments}
    with torch.device("meta"):
        net, plain = (build_model(ModelConfig(**config, drop_path=p)) for p in (0.2, 0.0))
    blocks = [module for module in net.modules() if isinstance(module, Block)]
    count = {18: 8, 34: 16, 50: 16}[depth]
    found = [path.probability for path in paths(net)]
    assert found[:count] == pytest.approx([0.2 * number / count for number in range(1, count + 1)])
    assert len(found) == len(blocks)
    assert net.state_dict().keys() == plain.state_dict().keys()
    assert not paths(plain)


def test_a_clip_is_dropped_with_all_of_its_frames_and_the_mean_stays():
    torch.manual_seed(0)
    path = DropPath(0.25, 4)
    x = torch.ones(4000, 2, 1, 1)
    clips = path(x).unflatten(0, (-1, 4)).flatten(1)
    dropped = (clips == 0).all(1)
    assert torch.equal(clips[~dropped], torch.full_like(clips[~dropped], 1 / 0.75))
    assert 0.21 < dropped.float().mean() < 0.29
    assert path.eval()(x) is x


def test_what_is_left_of_a_dropped_block_is_its_shortcut():
    torch.manual_seed(0)
    block = BasicBlock(BlockSpec(8, 8, 1, 2, 1, 0, 0))
    x = torch.rand(2 * 2, 8, 5, 5)
    expected = block(x)
    assert not torch.equal(expected, x)
    block.drop_path = DropPath(0.999999, 2)
    assert torch.equal(block(x.clone()), x)  # not negative, so that the ReLU leaves it
    assert torch.equal(block.eval()(x), torch.relu(block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x))))) + x))


def test_dropping_repeats_with_the_seed_and_evaluation_is_that_of_the_plain_network():
    nets = []
    for probability in (0.5, 0.0):
        torch.manual_seed(0)
        nets.append(build_model(ModelConfig(arch="tsn", drop_path=probability, **TINY)))
    net, plain = nets
    clips = torch.rand(4, 2, 3, 32, 32)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(net(clips))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    plain.load_state_dict(net.state_dict())
    assert torch.equal(net.eval()(clips), plain.eval()(clips))


def test_bits_of_a_network_without_it():
    """It draws nothing and changes nothing where it is off."""
    net = build_model(ModelConfig(arch="tsn", **TINY))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    net(torch.rand(1, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(before, torch.get_rng_state())


class OwnForward(Block):
    """A block that adds its branch itself, so that nothing could drop it."""

    def __init__(self, place: BlockSpec) -> None:
        super().__init__()
        self.out_channels = place.width

    def forward(self, x):
        return x.relu()


def test_networks_without_such_blocks_are_refused():
    with pytest.raises(ValueError, match=r"OwnForward .*adds its branch itself; let its forward end with self\.join"):
        build_model(ModelConfig(arch=f"{__name__}:OwnForward", drop_path=0.1, **TINY))
    with pytest.raises(ValueError, match="allowed is 0 <= drop_path < 1"):
        ModelConfig(drop_path=1.0)
