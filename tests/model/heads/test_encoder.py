"""The transformer over frames and over the words of a coarser label, and what it may not know."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from model import ModelConfig, build_model, fuse_batch_norm
from model.config import EncoderConfig
from model.heads.label_text import PADDING, LabelText, split_words

EVENTS, SETS = ("vault", "uneven bars"), ("round off", "giant circle backward", "leap")
LEVELS = (("event", EVENTS), ("set", SETS))
ENCODER = EncoderConfig(width=32, heads=4, text_width=6)
ENCODED = ModelConfig("tsn", 18, 5, 4, dropout=0.0, head="encoder", encoder=ENCODER, levels=LEVELS)
CROSS = replace(ENCODED, head="cross_encoder")


def clips_of(batch=3):
    return torch.randn(batch, 4, 3, 32, 32)


def awake(config):
    """A network whose classifiers and positions show every difference, its weights the same for every `config`."""
    torch.manual_seed(1)
    net = build_model(config)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim < 4:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return net.eval()


@pytest.mark.parametrize("arch", ["tsn", "vpsn", "tsm", "slowonly"])
@pytest.mark.parametrize("config", [ENCODED, CROSS], ids=["encoder", "cross_encoder"])
def test_it_stands_on_any_backbone_and_every_part_learns(arch, config):
    net = build_model(replace(config, arch=arch))
    outputs = net(clips_of(), with_losses=True)
    assert outputs.logits.shape == (3, 5)
    labels = torch.tensor([0, 1, 1])
    for logits in (outputs.logits, *outputs.level_logits):
        nn.functional.cross_entropy(logits, labels).backward(retain_graph=True)
    unreached = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert not unreached


def test_layers_of_the_transformer_begin_with_weights_of_their_own():
    first, second = build_model(ENCODED).encoder.transformer.layers
    same = {
        name for name, value in first.named_parameters() if torch.equal(value, dict(second.named_parameters())[name])
    }
    assert same == {name for name, value in first.named_parameters() if value.unique().numel() == 1}  # zeros and ones


def test_the_order_of_frames_counts_and_clips_stand_for_themselves():
    net, clips = awake(ENCODED), clips_of()
    logits = net(clips)
    assert (net(clips.flip(1)) - logits).abs().max() > 1e-3
    torch.testing.assert_close(net(clips[1:2])[0], logits[1])


def test_the_text_is_read_and_only_that_of_the_label_given():
    net, clips = awake(CROSS), clips_of()
    logits = [net(clips, torch.full((3,), label)) for label in range(3)]
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    renamed = awake(replace(CROSS, levels=(LEVELS[0], ("set", ("round off", "giant circle backward", "round")))))
    renamed.load_state_dict(net.state_dict() | {"encoder.text.words.weight": renamed.encoder.text.words.weight})
    with torch.no_grad():  # the same vectors for the words that both have
        for word in set(net.encoder.text.vocabulary) & set(renamed.encoder.text.vocabulary):
            ours, theirs = (each.encoder.text.vocabulary.index(word) + 1 for each in (net, renamed))
            renamed.encoder.text.words.weight[theirs] = net.encoder.text.words.weight[ours]
    torch.testing.assert_close(renamed(clips, torch.tensor([0, 1, 0])), net(clips, torch.tensor([0, 1, 0])))
    assert (renamed(clips, torch.full((3,), 2)) - logits[2]).abs().max() > 1e-3


def test_nothing_of_the_label_to_be_predicted_reaches_it():
    """The names of the classes are no part of its configuration. The text it reads, of the set, does not bear on which
    set it finds; that of the event is not read."""
    net, clips = awake(CROSS), clips_of()
    assert net.encoder.text.vocabulary == ("backward", "circle", "giant", "leap", "off", "round")
    given = [net(clips, torch.full((3,), label), with_losses=True).level_logits[0] for label in range(3)]
    assert torch.equal(given[0], given[1]) and torch.equal(given[0], given[2])
    other_names = awake(replace(CROSS, levels=(LEVELS[0], ("set", ("off round", "leap giant leap", "circle")))))
    other_names.load_state_dict(net.state_dict() | {n: v for n, v in other_names.state_dict().items() if ".text." in n})
    assert torch.equal(other_names(clips, with_losses=True).level_logits[0], given[0])
    other_events = awake(replace(CROSS, levels=(("event", ("something", "else altogether")), LEVELS[1])))
    assert torch.equal(other_events(clips), net(clips))


def test_without_a_label_it_takes_the_one_it_finds():
    net, clips = awake(CROSS), clips_of(8)
    with torch.no_grad():  # so that clips differ in the class they are nearest to
        net.coarse.bias.sub_(net(clips, with_losses=True).level_logits[0].mean(0))
    outputs = net(clips, with_losses=True)
    found = outputs.level_logits[0].argmax(1)
    assert len(found.unique()) > 1
    torch.testing.assert_close(net(clips, found), outputs.logits)
    torch.testing.assert_close(net(clips), outputs.logits)
    torch.testing.assert_close(fuse_batch_norm(net)(clips), outputs.logits)


@pytest.mark.parametrize("config", [ENCODED, CROSS], ids=["encoder", "cross_encoder"])
def test_it_can_be_exported_for_any_number_of_clips(config):
    net = fuse_batch_norm(awake(config))
    batch = torch.export.Dim("batch")
    exported = torch.export.export(net, (clips_of(2),), dynamic_shapes={"clips": {0: batch}}).module()
    for count in (1, 3):
        clips = clips_of(count)
        torch.testing.assert_close(exported(clips), net(clips))


def test_padding_is_not_read():
    net, clips = awake(CROSS), clips_of()
    label = torch.zeros(3, dtype=torch.int64)
    before = net(clips, label)  # "round off" beside names of three words
    with torch.no_grad():
        net.encoder.text.positions[:, 2:] += 1
    torch.testing.assert_close(net(clips, label), before)


def test_words_of_a_label():
    assert split_words("(BB) leap_forward, 1.5 Turns — für") == ["bb", "leap", "forward", "1", "5", "turns", "für"]
    text = LabelText(("b a", "a", ""), 4, 8)
    assert text.vocabulary == ("a", "b") and len(text) == 3
    tokens, is_padding = text(torch.tensor([1, 0, 2]))
    assert tokens.shape == (3, 2, 8)
    assert is_padding.tolist() == [[False, True], [False, False], [True, True]]
    assert not text.words.weight[PADDING].any()


def test_vectors_of_words_are_taken_from_a_file(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("the 9 9 9 9 9 9\nleap 1 2 3 4 5 6\ncircle 0 0 0 0 0 1\n")
    config = replace(CROSS, encoder=replace(ENCODER, word_vectors=str(path)))
    text = build_model(config).encoder.text
    assert text.words.weight[text.vocabulary.index("leap") + 1].tolist() == [1, 2, 3, 4, 5, 6]
    path.unlink()
    build_model(config.without_files())
    with pytest.raises(ValueError, match=r"model.encoder.word_vectors='.*vectors.txt': .*No such file"):
        build_model(config)


@pytest.mark.parametrize(
    ("content", "message"),
    [("leap 1 2\n", "line 1: 2 numbers, but text_width=6"), ("other 1 2 3 4 5 6\n", "none of the 6 words")],
)
def test_files_that_are_no_vectors_of_these_words(tmp_path, content, message):
    path = tmp_path / "vectors.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        build_model(replace(CROSS, encoder=replace(ENCODER, word_vectors=str(path))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EncoderConfig(width=30, heads=8), "model.encoder.width=30: allowed is a multiple of heads=8"),
        (lambda: EncoderConfig(layers=0), "model.encoder.layers=0"),
        (
            lambda: replace(CROSS, encoder=replace(ENCODER, text_level="element")),
            "text_level='element': allowed are event, set",
        ),
    ],
)
def test_impossible_encoders_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
