"""The synthesizer against Eq. 1 written out in float64: explicit kernels, a term for every pair of a temporal kernel i
and a spatial kernel j. Feature maps are (B, C, T, H, W) here, and a convolution is a sum over shifted copies."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from model import ModelConfig, SynthesizerConfig, build_model
from model.synthesizer import GROUPS, Synthesizer, fixed_matrix

FRAMES = 5
OPTIONS = [
    {},
    {"receptive_field": "5x5x7"},
    {"pooling": "avg"},
    {"pooling": "none"},
    {"inter_relu": False},
    {"dilation": False},
    {"dilation": False, "receptive_field": "5x5x7"},
    {"factorization": "(1+1+1)D"},
    {"factorization": "(1+1+1)D", "dilation": False},
    {"fusion": "grouping"},
    {"fusion": "shuffle"},
    {"fusion": "dropout"},
    {"proportion": 0.5},
]


def make(channels=64, **options):
    """A synthesizer with random weights and BN statistics, in evaluation mode."""
    block = Synthesizer(channels, FRAMES, SynthesizerConfig(**options)).double().eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight), nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean), nn.init.uniform_(module.running_var, 0.5, 2)
    return block


def fold(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def unfold(x: Tensor) -> Tensor:
    return x.unflatten(0, (-1, FRAMES)).transpose(1, 2)


def shifted(x: Tensor, t: int, h: int, w: int, fill: float = 0.0) -> Tensor:
    """x at (. + t, . + h, . + w), `fill` outside."""
    size = max(abs(t), abs(h), abs(w))
    padded = nn.functional.pad(x, [size] * 6, value=fill)
    T, H, W = x.shape[2:]
    return padded[:, :, size + t :, size + h :, size + w :][:, :, :T, :H, :W]


def taps(shape):
    """Index and offset of every tap of an odd kernel."""
    return [(index, [i - n // 2 for i, n in zip(index, shape)]) for index in itertools.product(*map(range, shape))]


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """x (B, C, T, H, W) * kernel (O, C, t, h, w)"""
    return sum(
        torch.einsum("oc,bcthw->bothw", kernel[:, :, a, b, c], shifted(x, *offset))
        for (a, b, c), offset in taps(kernel.shape[2:])
    )


def maximum(x: Tensor, shape) -> Tensor:
    return torch.stack([shifted(x, *offset, fill=-torch.inf) for _, offset in taps(shape)]).amax(0)


def undilated(weight: Tensor, dilation) -> Tensor:
    """A dilated kernel (O, C, h, w) with the zeros between its taps written out."""
    full = weight.new_zeros(*weight.shape[:2], *((n - 1) * d + 1 for n, d in zip(weight.shape[2:], dilation)))
    full[:, :, :: dilation[0], :: dilation[1]] = weight
    return full


def spatial_kernel(module: nn.Module) -> Tensor:
    """F_s (c, c, 1, k, k)"""
    if isinstance(module, nn.Conv2d):
        return undilated(module.weight, module.dilation)[:, :, None]
    row, column = (undilated(conv.weight, conv.dilation) for conv in module)
    return torch.einsum("omy,mix->oiyx", column[..., 0], row[..., 0, :])[:, :, None]


def kernels(block: Synthesizer) -> tuple[list, list]:
    """F_s(j) and F_t(i), in the order of the groups; None is a maximum, which is no convolution."""
    c = block.compress.out_channels // GROUPS
    one = torch.eye(c, dtype=torch.float64)[:, :, None, None, None]
    pooled = {"max": (None, None), "none": (one, one)}
    pooled["avg"] = (one.expand(-1, -1, 1, 3, 3) / 9, one.expand(-1, -1, 3, 1, 1) / 3)
    pool = pooled[block.spatial.pooling]
    temporal = [undilated(m.weight, m.dilation)[..., None] for m in (block.temporal.small, block.temporal.large)]
    return (
        [one, spatial_kernel(block.spatial.small), spatial_kernel(block.spatial.large), pool[0]],
        [one, *temporal, pool[1]],
    )


def blocks_of(block: Synthesizer) -> list[list[Tensor]]:
    """T_ij"""
    matrix = block.fusion.weight.double()[:, :, 0, 0]
    return [list(row.chunk(GROUPS, dim=1)) for row in matrix.chunk(GROUPS, dim=0)]


def equation_1(block: Synthesizer, u: Tensor) -> Tensor:
    """V of U (B, C, T, H, W): sum_i W'(i) (sum_j W(j) U * F_s(j)) * F_t(i), BN and ReLU where Figure 3 has them."""
    spatial, temporal = kernels(block)
    bn = block.spatial.bn
    factor = bn.weight / (bn.running_var + bn.eps).sqrt()
    shift = bn.bias - bn.running_mean * factor
    compress = block.compress.weight[:, :, 0, 0]
    x = []
    for rows, kernel, a, b in zip(compress.chunk(GROUPS), spatial, factor.chunk(GROUPS), shift.chunk(GROUPS)):
        group = torch.einsum("oc,bcthw->bothw", rows, u)
        group = maximum(group, (1, 3, 3)) if kernel is None else convolve(group, kernel)
        group = group * a[:, None, None, None] + b[:, None, None, None]
        x.append(group.clamp(min=0) if block.spatial.relu else group)
    v = torch.zeros_like(u)
    for row, kernel, expand in zip(blocks_of(block), temporal, block.expand.weight[:, :, 0, 0].chunk(GROUPS, dim=1)):
        y = sum(torch.einsum("oc,bcthw->bothw", t_ij, x_j) for t_ij, x_j in zip(row, x))
        y = maximum(y, (3, 1, 1)) if kernel is None else convolve(y, kernel)
        v += torch.einsum("oc,bcthw->bothw", expand, y)
    return v


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(map(str, options.values())) or "default")
def test_the_block_is_equation_1(options):
    block = make(**options)
    u = torch.randn(2, 64, FRAMES, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(unfold(block(fold(u))), u + equation_1(block, u))


@pytest.mark.parametrize("receptive_field", ["5x5x5", "5x5x7"])
def test_a_linear_block_is_one_convolution_with_the_sum_of_sixteen_kernels(receptive_field):
    """Without ReLU and with average pooling all is linear: V is one convolution with the sum of G x G kernels."""
    block = make(inter_relu=False, pooling="avg", receptive_field=receptive_field)
    bn = block.spatial.bn
    bn.reset_parameters()
    factor = 1 / (1 + bn.eps) ** 0.5
    spatial, temporal = kernels(block)
    rows, columns = (
        block.compress.weight[:, :, 0, 0].chunk(GROUPS),
        block.expand.weight[:, :, 0, 0].chunk(GROUPS, dim=1),
    )
    total = torch.zeros(64, 64, 7, 5, 5, dtype=torch.float64)
    shapes = set()
    for i, j in itertools.product(range(GROUPS), repeat=2):
        f_s, f_t, t_ij = spatial[j][:, :, 0], temporal[i][:, :, :, 0, 0], blocks_of(block)[i][j]
        kernel = torch.einsum("Oo,opt,pq,qryx,rC->OCtyx", columns[i], f_t, t_ij, f_s, rows[j]) * factor
        support = kernel.abs().sum((0, 1)) > 1e-12
        t, h, w = ((7 - kernel.shape[2]) // 2, *((5 - n) // 2 for n in kernel.shape[3:]))
        shapes.add((kernel.shape[2:], tuple(support.flatten().tolist())))
        total[:, :, t : 7 - t, h : 5 - h, w : 5 - w] += kernel
    # Pooling covers the same points as the kernel of size 3, with weights that are not learned.
    assert len(shapes) == (GROUPS - 1) ** 2
    u = torch.randn(2, 64, FRAMES, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(unfold(block(fold(u))), u + convolve(u, total))


def test_channel_wise_weights_are_a_special_case():
    """W and W' of Eq. 1 weigh channels: T_ij = diag(W_i(j)) and W'(i) in the expansion."""
    block = make(channels=16, proportion=1.0, inter_relu=False, pooling="none")
    block.spatial.bn.reset_parameters()
    block.spatial.bn.eps = 1e-30
    w, w_out = torch.randn(GROUPS, GROUPS, 4).double(), torch.randn(GROUPS, 4).double()
    with torch.no_grad():
        block.compress.weight.copy_(torch.eye(16)[:, :, None, None])
        block.fusion.weight.copy_(torch.cat([torch.cat([v.diag() for v in row], dim=1) for row in w])[:, :, None, None])
        block.expand.weight.copy_(w_out.flatten().diag()[:, :, None, None])
    u = torch.randn(2, 16, FRAMES, 7, 6, dtype=torch.float64)
    spatial, temporal = kernels(block)
    x = [convolve(u_j, f_s) for u_j, f_s in zip(u.chunk(GROUPS, dim=1), spatial)]
    v = [
        w_out[i][:, None, None, None]
        * convolve(sum(w[i, j][:, None, None, None] * x[j] for j in range(GROUPS)), temporal[i])
        for i in range(GROUPS)
    ]
    torch.testing.assert_close(unfold(block(fold(u))), u + torch.cat(v, dim=1))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(map(str, options.values())) or "default")
def test_a_zero_expansion_leaves_the_input_as_it_is(options):
    block = make(**options)
    nn.init.zeros_(block.expand.weight)
    x = torch.randn(2 * FRAMES, 64, 7, 6).double()
    assert torch.equal(block(x), x)


def test_fixed_fusions_are_those_of_equation_4():
    x = torch.arange(32.0)
    by_group = x.view(4, 4, 2)
    assert torch.equal(fixed_matrix(32, "grouping") @ x, x)
    shuffled = (fixed_matrix(32, "shuffle") @ x).view(4, 4, 2)
    dropped = (fixed_matrix(32, "dropout") @ x).view(4, 4, 2)
    for i, j in itertools.product(range(4), repeat=2):
        assert torch.equal(shuffled[i, j], by_group[j, i])
        assert torch.equal(dropped[i, j], by_group[j, 0])


def test_a_fixed_fusion_needs_sub_groups():
    config = SynthesizerConfig(fusion="shuffle", proportion=1 / 16)
    with pytest.raises(ValueError, match=r"model\.synthesizer\.fusion='shuffle': needs a multiple of 16 .*leaves 4"):
        build_model(ModelConfig(depth=18, synthesizer=config))


@pytest.mark.parametrize("arch", ["vpsn", "rf_s", "rf_l", "rf_l_inception_t"])
def test_a_proportion_that_leaves_nothing_is_an_error(arch):
    with pytest.raises(ValueError, match=r"model\.synthesizer\.proportion=0\.01: leaves .*raise it"):
        build_model(ModelConfig(arch, depth=18, synthesizer=SynthesizerConfig(proportion=0.01)))


def test_synthesizers_stand_where_the_placement_says():
    config = SynthesizerConfig(placement=("layer2", "stem"), proportion=1.0)
    net = build_model(ModelConfig(depth=50, num_classes=5, num_segments=2, synthesizer=config))
    widths = {name: block.compress.out_channels for name, block in net.synthesizers.items()}
    assert widths == {"stem": 64, "layer2": 512}
    assert net.synthesizer_names == ("stem", "layer2")
    seen = {}
    for name, block in net.synthesizers.items():
        block.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: inputs[0].shape}))
    net(torch.randn(1, 2, 3, 64, 64))
    assert seen == {"stem": (2, 64, 16, 16), "layer2": (2, 512, 8, 8)}
    assert list(seen) == list(net.synthesizer_names)


def test_expansion_starts_small_with_pretrained_weights_only(tmp_path):
    scratch = build_model(ModelConfig(depth=18, num_classes=5, num_segments=2))
    torch.save(build_model(ModelConfig("tsn", 18, 5, 2)).state_dict(), tmp_path / "tsn.pth")
    pretrained = build_model(ModelConfig(depth=18, num_classes=5, num_segments=2, pretrained=str(tmp_path / "tsn.pth")))
    zero = SynthesizerConfig(expand_init_scale=0.0)
    zeroed = build_model(ModelConfig(depth=18, num_classes=5, num_segments=2, synthesizer=zero))
    sizes = [net.synthesizers["layer3"].expand.weight.std().item() for net in (scratch, pretrained, zeroed)]
    assert sizes[1] == pytest.approx(0.01 * sizes[0], rel=0.1)
    assert sizes[2] == 0
