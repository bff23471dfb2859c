"""Exact counts: what a row costs may not change unnoticed."""

import pytest

from model import ModelConfig, SynthesizerConfig
from model.complexity import ROWS, format_rows, measure


def vpsn(num_segments=8, **options):
    return ModelConfig(num_classes=174, num_segments=num_segments, synthesizer=SynthesizerConfig(**options))


def baseline(arch, depth=50, **options):
    return ModelConfig(arch, depth, 174, synthesizer=SynthesizerConfig(**options))


def headed(head):
    return ModelConfig("tsn", 50, 174, head=head)


RESNET_50 = 23_864_558 - 2049 * 174  # without the classifier


def dg_p3d_parameters():
    """Of 50 layers, written out: ResNet-50, its layer4 and classifier once more, stem, kernels over time, context."""
    blocks = {64: 3, 128: 4, 256: 6, 512: 3 + 3}
    layer4 = (1024 * 512 + 2 * 2048 * 512) + 3 * (9 * 512**2 + 512 * 2048) + 1024 * 2048 + 2 * (6 * 512 + 4 * 2048)
    over_time = sum(3 * width**2 * count for width, count in blocks.items())
    context = sum((2 * c * c // 16 + c // 16 + c) * count for c, count in ((4 * w, n) for w, n in blocks.items()))
    return 23_864_558 + layer4 + 2049 * 174 + 9 * 49 * 64 + over_time + context


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (baseline("tsn"), 23_864_558),
        (baseline("tsm"), 23_864_558),
        (baseline("gst"), 21_035_246),
        (baseline("gst", 101), 37_520_622),
        (baseline("tea"), 24_456_280),
        (baseline("stm"), 24_035_194 + 472),
        (baseline("p3d"), 23_864_558 + 1_413_120 + 4_480),
        (baseline("dg_p3d"), dg_p3d_parameters()),
        (headed("lstm"), RESNET_50 + 4 * 256 * (2048 + 256 + 2) + 257 * 174),
        (headed("ts_lstm"), RESNET_50 + 2 * 2048 + 4 * 512 * (2048 + 512 + 2) + 2 * 512 + 513 * 174),
        # Three layers of 1, 2 and 4 maps with kernels of 5 and 7, then 8 -> 2 -> 1 -> 1 maps, and two numbers a BN.
        (
            headed("temporal_inception"),
            RESNET_50 + 12 * (1 + 4 + 16) + (16 + 2 + 1) + 2 * (2 + 4 + 8 + 2 + 1 + 1) + 1024 * (2049 + 2) + 1025 * 174,
        ),
        (baseline("rf_s", placement="B", proportion=1 / 6), 27_569_314),
        (baseline("rf_l", placement="B", proportion=1 / 8), 27_348_078),
        (vpsn(), 24_771_342),
        (vpsn(proportion=1 / 16), 24_050_814),
        (vpsn(placement="B"), 27_522_158),
        (vpsn(placement="B", pooling="avg"), 27_522_158),
        (vpsn(placement="B", pooling="none"), 27_522_158),
        (vpsn(placement="B", dilation=False), 27_522_158 + 391_680),
        (vpsn(placement="B", factorization="(1+1+1)D"), 27_522_158 - 130_560),
    ],
)
def test_parameters_are_exact(config, parameters):
    assert measure(config, size=32).parameters == parameters


def test_multiply_adds_are_the_papers():
    assert f"{measure(baseline('tsn')).multiply_adds_with_bn / 1e9:.2f}" == "32.88"
    eight, sixteen = measure(vpsn()), measure(vpsn(16))
    assert f"{eight.multiply_adds / 1e9:.2f}" == "36.00"
    assert f"{eight.multiply_adds_with_bn / 1e9:.2f}" == "36.19"
    assert f"{sixteen.multiply_adds_with_bn / 1e9:.2f}" == "72.38"
    assert sixteen.multiply_adds == 2 * eight.multiply_adds


def test_what_a_head_multiplies_is_counted():
    backbone = measure(headed("mean"), size=32).multiply_adds - 8 * 2048 * 174
    added = {head: measure(headed(head), size=32).multiply_adds - backbone for head in ("lstm", "ts_lstm")}
    assert added == {
        "lstm": 8 * (4 * 256 * (2048 + 256) + 256 * 174),
        "ts_lstm": 3 * 4 * 512 * (2048 + 512) + 512 * 174,
    }
    convolutions = 2048 * (12 * (1 * 8 + 4 * 4 + 16 * 2) + (16 + 2 + 1))  # 8, 4 and 2 frames, then one
    found = measure(headed("temporal_inception"), size=32).multiply_adds - backbone
    assert found == convolutions + 2048 * 1024 + 1024 * 174


def test_stm_costs_what_is_published():
    """67 G for 16 frames."""
    assert f"{measure(ModelConfig('stm', 50, 174, 16)).multiply_adds_with_bn / 1e9:.2f}" == "66.51"


GROUP_SIZES = [channels // 4 // 4 for channels in (256, 512, 1024, 2048)]  # c of B, p = 1/4; w = 4 c, C = 16 c


def test_published_counts_are_explained_to_the_digit():
    """What the notes of the ledger say, from the counts of the networks here and what each explanation adds."""
    notes = {row.name: row.note for row in ROWS if row.table in "13"}
    resnet, here = (measure(config, size=32).parameters for config in (baseline("tsn"), vpsn(placement="B")))
    # 24 c^2 + 2 w become 25 c^2 + 12 w.
    ours = here + sum(c**2 + 10 * 4 * c for c in GROUP_SIZES)
    assert f"{ours:,}" in notes["Max Pool"] and rounds_to(ours / 1e6, 27.55)
    without_dilation = ours + sum(18 * c**2 for c in GROUP_SIZES)  # 16 taps more of a spatial 5, two of a temporal one
    assert f"{without_dilation:,}" in notes["Without dilation"] and rounds_to(without_dilation / 1e6, 27.95)
    # Compression, expansion, whole kernels of 3 x 3, 5 x 5, 3 and 5.
    inception = resnet + sum(2 * 16 * c * 4 * c + (9 + 25 + 3 + 5) * c**2 for c in GROUP_SIZES)
    assert f"{inception:,}" in notes["RF-L-Inception"] and rounds_to(inception / 1e6, 27.56)


def test_fusion_and_routes_are_exact():
    learned = measure(vpsn(), size=32)
    assert (learned.fusion_parameters, learned.ir_interactions, learned.kernel_shapes) == (86_272, 1856, 16)
    grouping = measure(vpsn(fusion="grouping"), size=32)
    assert (grouping.fusion_parameters, grouping.irregular_interactions, grouping.kernel_shapes) == (0, 0, 4)
    assert [measure(vpsn(fusion=fusion), size=32).dropout_rate for fusion in ("learned", "shuffle", "dropout")] == [
        0,
        0,
        0.75,
    ]


def test_the_ledger_shows_every_row_and_explains_or_says_so():
    lines = list(format_rows())
    assert len(lines) == len(ROWS) + 1
    for row, line in zip(ROWS, lines[1:]):
        cost = measure(row.config, row.size)
        assert row.name in line
        assert f"{cost.parameters:,}" in line
        same_routes = row.ir_interactions in (None, cost.ir_interactions, cost.irregular_interactions)
        is_explained = rounds_to(cost.parameters / 1e6, row.parameters)
        is_explained &= rounds_to(cost.fusion_parameters / 1e6, row.fusion_parameters)
        is_explained &= rounds_to(cost.multiply_adds_with_bn / 1e9, row.multiply_adds)
        assert (is_explained and same_routes) or row.note, line


def rounds_to(ours, published):
    """Within the published digits, the last of which may be rounded either way."""
    if published is None:
        return True
    decimals = len(f"{published:g}".partition(".")[2])
    return abs(ours - published) < 0.55 * 10**-decimals
