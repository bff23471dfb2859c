"""Configuration: every value that cannot work is named with what is allowed."""

import dataclasses

import pytest

from model import (
    EncoderConfig,
    LSTMConfig,
    ModelConfig,
    SynthesizerConfig,
    TemporalInceptionConfig,
    TSLSTMConfig,
)
from sharding.cli import CommandLine


@pytest.mark.parametrize(
    ("field", "value"),
    [("arch", "vpn"), ("depth", 49), ("num_classes", 0), ("num_segments", 0), ("dropout", 1.0), ("pretrained", "")],
)
def test_a_wrong_model_value_is_named(field, value):
    with pytest.raises(ValueError, match=rf"^model\.{field}=.*allowed"):
        ModelConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("placement", "C"),
        ("placement", ("layer5",)),
        ("placement", ("stem", "stem")),
        ("placement", ()),
        ("proportion", 0.0),
        ("proportion", 1.5),
        ("receptive_field", "7x7x7"),
        ("pooling", "mean"),
        ("inter_relu", "yes"),
        ("dilation", 2),
        ("factorization", "3D"),
        ("fusion", "sum"),
        ("interaction_norm", "max"),
        ("expand_init_scale", -1.0),
    ],
)
def test_a_wrong_synthesizer_value_is_named(field, value):
    with pytest.raises(ValueError, match=rf"^model\.synthesizer\.{field}=.*allowed"):
        SynthesizerConfig(**{field: value})


def test_every_field_is_documented_and_reachable_from_the_command_line():
    parser = CommandLine()
    parser.add_class_arguments(ModelConfig, "model")
    help_text = " ".join(parser.format_help().split())
    for config, prefix in ((ModelConfig, "model"), (SynthesizerConfig, "model.synthesizer")):
        for field in dataclasses.fields(config):
            assert f"--{prefix}.{field.name} " in help_text
    assert "Probability of dropping a feature before the classifier" in help_text
    assert "Share p of a stage's channels" in help_text


def test_the_command_line_makes_the_configuration():
    parser = CommandLine()
    parser.add_class_arguments(ModelConfig, "model")
    parsed = parser.parse_args(["--model.depth=18", "--model.synthesizer.placement=[stem, layer4]"])
    assert parser.instantiate(parsed).model == ModelConfig(
        depth=18, synthesizer=SynthesizerConfig(placement=("stem", "layer4"))
    )
    again = ModelConfig(synthesizer=SynthesizerConfig(placement=["stem", "layer4"]))
    assert again.synthesizer.stages == ("stem", "layer4")


def test_configurations_are_plain_data():
    config = ModelConfig(synthesizer=SynthesizerConfig(placement="B"), levels=(("event", ("vault", "bars")),))
    data = dataclasses.asdict(config)
    kinds = {"synthesizer": SynthesizerConfig, "encoder": EncoderConfig, "lstm": LSTMConfig, "ts_lstm": TSLSTMConfig}
    kinds |= {"temporal_inception": TemporalInceptionConfig}
    parts = {name: kind(**data[name]) for name, kind in kinds.items()}
    assert ModelConfig(**data | parts) == config
    assert hash(config) == hash(dataclasses.replace(config))
