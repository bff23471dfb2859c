"""The backbone: torchvision's ResNet on folded frames."""

import pytest
import torch
import torchvision

from model import ModelConfig, build_model
from model.config import DEPTHS


@pytest.mark.parametrize("depth", DEPTHS["tsn"])
def test_tsn_is_torchvisions_resnet_averaged_over_frames(depth):
    reference = getattr(torchvision.models, f"resnet{depth}")(num_classes=7).eval()
    net = build_model(ModelConfig(arch="tsn", depth=depth, num_classes=7, num_segments=3)).eval()
    net.load_state_dict(reference.state_dict())
    clips = torch.randn(2, 3, 3, 64, 64)
    with torch.no_grad():
        expected = reference(clips.flatten(0, 1)).view(2, 3, 7).mean(1)
        torch.testing.assert_close(net(clips), expected, rtol=1e-4, atol=1e-5)


def test_clips_in_frame_memory_are_taken_without_a_copy():
    net = build_model(ModelConfig(arch="tsn", depth=18, num_classes=7, num_segments=3)).eval()
    memory = torch.randn(2, 3, 64, 64, 3)
    seen = []
    net.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(memory.permute(0, 1, 4, 2, 3))
    assert seen[0].data_ptr() == memory.data_ptr()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("arch", DEPTHS)
def test_every_feature_map_stays_channels_last(short_networks, arch):
    net = build_model(ModelConfig(arch=arch, depth=50, num_classes=7, num_segments=4)).eval()
    strides = {}
    for name, module in net.named_modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.Conv2d)) and "excitation" not in name:
            module.register_forward_hook(
                lambda module, inputs, output, name=name: strides.__setitem__(
                    name, output.is_contiguous(memory_format=torch.channels_last)
                )
            )
    net(torch.randn(2, 4, 3, 64, 64))
    assert len(strides) > 30
    assert all(strides.values()), [name for name, good in strides.items() if not good]


def test_features_then_head_is_the_network():
    net = build_model(ModelConfig(arch="vpsn", depth=18, num_classes=7, num_segments=3)).eval()
    clips = torch.randn(2, 3, 3, 64, 64)
    features = net.forward_features(clips)
    assert features.shape == (6, 512, 2, 2)
    torch.testing.assert_close(net.forward_head(features), net(clips), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(2, 4, 3, 64, 64), (2, 3, 1, 64, 64), (6, 3, 64, 64)])
def test_clips_of_another_shape_are_refused(shape):
    net = build_model(ModelConfig(arch="tsn", depth=18, num_classes=7, num_segments=3))
    with pytest.raises(ValueError, match=r"network takes \(B, 3, 3, H, W\)"):
        net(torch.zeros(shape))


def test_tsn_has_no_auxiliary_losses():
    net = build_model(ModelConfig(arch="tsn", depth=18, num_classes=7, num_segments=3))
    outputs = net(torch.randn(2, 3, 3, 64, 64), with_losses=True)
    assert outputs.interaction_loss == outputs.capacity_loss == 0
    assert len(outputs.interaction_losses) == len(net.synthesizer_names) == 0


def test_batch_norm_stays_float32_under_autocast():
    net = build_model(ModelConfig(arch="vpsn", depth=18, num_classes=7, num_segments=3))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = net(torch.randn(2, 3, 3, 64, 64), with_losses=True)
    assert outputs.interaction_loss.dtype == outputs.capacity_loss.dtype == torch.float32
    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float32, torch.int64}
