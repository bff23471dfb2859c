"""LSTMs over frames against the recursion written out, and what each step may know."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model import LSTMConfig, ModelConfig, TSLSTMConfig, build_model
from model.heads.recurrent import SegmentLSTM

T = 4
LRCN = ModelConfig("tsn", 18, 5, T, dropout=0.0, head="lstm", lstm=LSTMConfig(width=6, layers=2))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def recursion(lstm, x):
    """The outputs (B, T, width) of every layer's recursion in turn, of x (B, T, channels)."""
    values = {name: value.detach().numpy() for name, value in lstm.state_dict().items()}
    for layer in range(lstm.num_layers):
        w, u = values[f"weight_ih_l{layer}"], values[f"weight_hh_l{layer}"]
        b = values[f"bias_ih_l{layer}"] + values[f"bias_hh_l{layer}"]
        h = c = np.zeros((len(x), lstm.hidden_size))
        outputs = []
        for step in range(x.shape[1]):
            i, f, g, o = np.split(x[:, step] @ w.T + h @ u.T + b, 4, axis=1)  # input, forget, cell, output
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        x = np.stack(outputs, axis=1)
    return x


def awake(config):
    """A network in float64 whose classifier and norms show every difference."""
    torch.manual_seed(1)
    net = build_model(config).double()
    with torch.no_grad():
        for name, tensor in (*net.named_parameters(), *net.named_buffers()):
            if name.startswith(("fc.", "ts_lstm.", "lstm.")) and tensor.is_floating_point():
                tensor.copy_(0.5 * torch.randn_like(tensor))
                if name.endswith("running_var"):
                    tensor.abs_()
    return net.eval()


def test_lrcn_is_the_recursion_and_the_mean_of_a_classifier_on_every_step():
    net, features = awake(LRCN), torch.randn(3 * T, 512, 2, 3).double()
    states = recursion(net.lstm, features.numpy().mean((2, 3)).reshape(3, T, 512))
    steps = states @ net.fc.weight.detach().numpy().T + net.fc.bias.detach().numpy()
    np.testing.assert_allclose(net.forward_steps(features).detach(), steps, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(net.forward_head(features).detach(), steps.mean(1), rtol=1e-9, atol=1e-12)


def test_a_step_of_lrcn_knows_no_later_frame():
    net, clips = awake(LRCN), torch.randn(2, T, 3, 32, 32).double()
    before = net(clips, with_losses=True)
    torch.testing.assert_close(before.step_logits.mean(1), before.logits)
    torch.testing.assert_close(net(clips), before.logits)
    for changed in range(T):
        others = clips.clone()
        others[:, changed] = torch.randn(2, 3, 32, 32).double()
        after = net(others, with_losses=True).step_logits
        torch.testing.assert_close(after[:, :changed], before.step_logits[:, :changed], rtol=1e-12, atol=1e-12)
        assert ((after - before.step_logits)[:, changed:].abs().amax(2) > 1e-6).all()  # this step, and all after it


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize(("frames", "parts"), [(8, [(0, 2), (2, 5), (5, 8)]), (3, [(0, 1), (1, 2), (2, 3)])])
def test_ts_lstm_is_batch_norm_then_pooling_then_the_recursion(pooling, frames, parts):
    options = TSLSTMConfig(segments=3, pooling=pooling, width=6, layers=2)
    net = awake(ModelConfig("tsn", 18, 5, frames, head="ts_lstm", ts_lstm=options))
    head, x = net.ts_lstm, torch.randn(2, frames, 512).double()

    def normalised(norm, values):
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        return (values - norm.running_mean.numpy()) * factor.detach().numpy() + norm.bias.detach().numpy()

    normal = normalised(head.norm, x.numpy())
    reduce = {"max": np.max, "mean": np.mean}[pooling]
    pooled = np.stack([reduce(normal[:, begin:end], axis=1) for begin, end in parts], axis=1)
    expected = normalised(head.last_norm, recursion(head.lstm, pooled)[:, -1])
    np.testing.assert_allclose(head(x).detach(), expected, rtol=1e-9, atol=1e-12)
    logits = net.forward_head(x.flatten(0, 1)[..., None, None])
    expected = expected @ net.fc.weight.detach().numpy().T + net.fc.bias.detach().numpy()
    np.testing.assert_allclose(logits.detach(), expected, rtol=1e-9, atol=1e-12)


def test_within_a_part_the_order_of_frames_does_not_count_and_between_parts_it_does():
    head = SegmentLSTM(7, 6, TSLSTMConfig(segments=2, width=5)).eval()
    frames = torch.randn(2, 6, 7)
    expected = head(frames)
    torch.testing.assert_close(head(frames[:, [2, 0, 1, 4, 5, 3]]), expected)
    assert (head(frames[:, [3, 4, 5, 0, 1, 2]]) - expected).abs().max() > 1e-3


def test_in_training_its_batch_norm_has_the_frames_of_all_parts():
    head = SegmentLSTM(7, 4, TSLSTMConfig(segments=2))
    frames = 3 + 2 * torch.randn(5, 4, 7)
    head(frames)
    torch.testing.assert_close(head.norm.running_mean, 0.1 * frames.mean((0, 1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lstm": {"width": 0}}, r"^model\.lstm\.width=0: allowed is >= 1$"),
        ({"lstm": {"layers": 1.5}}, r"^model\.lstm\.layers=1\.5: allowed is a value of type int$"),
        ({"ts_lstm": {"pooling": "sum"}}, r"^model\.ts_lstm\.pooling='sum': allowed are max, mean$"),
        (
            {"ts_lstm": {"segments": 5}, "head": "ts_lstm"},
            r"^model\.ts_lstm\.segments=5: allowed are 1 to 4, the",
        ),
        ({"arch": "dg_p3d", "depth": 50}, r"^model\.head=lstm: allowed for model\.arch=dg_p3d"),
    ],
)
def test_impossible_options_are_one_line(options, message):
    kinds = {"lstm": LSTMConfig, "ts_lstm": TSLSTMConfig}
    with pytest.raises(ValueError, match=message):
        replace(LRCN, **{name: kinds[name](**value) if name in kinds else value for name, value in options.items()})
