"""UperNet against the one in transformers, weight by weight."""

import pytest
import torch
from torch import nn

from finetune.config import DecoderConfig
from finetune.decoder import ConvBlock, FcnHead, UperNet, resize_scores

INPUTS = (8, 16, 24, 32)


@pytest.fixture(scope="module")
def oracle():
    from transformers import ResNetConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = ResNetConfig(
        num_channels=1,
        embedding_size=8,
        hidden_sizes=list(INPUTS),
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=12, num_labels=5, auxiliary_channels=10, auxiliary_in_channels=24
    )
    torch.manual_seed(0)
    model = UperNetForSemanticSegmentation(config)
    for module in model.modules():  # statistics and affines that a wrong mapping would show
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return model.eval()


def _block(target: ConvBlock, source: nn.Module) -> None:
    target.conv.load_state_dict(source.conv.state_dict())
    target.norm.load_state_dict(source.batch_norm.state_dict())


def _mapped(source: nn.Module) -> UperNet:
    head = UperNet(INPUTS, 5, DecoderConfig(channels=12)).eval()
    for branch, block in zip(head.context.branches, source.psp_modules.blocks, strict=True):
        _block(branch, block.layers[1])
    _block(head.context.fuse, source.bottleneck)
    for mine, theirs in zip([*head.laterals, *head.smooth], [*source.lateral_convs, *source.fpn_convs], strict=True):
        _block(mine, theirs)
    _block(head.fuse, source.fpn_bottleneck)
    head.classifier.load_state_dict(source.classifier.state_dict())
    return head


@pytest.mark.parametrize("size", [(64, 64), (96, 72), (200, 136)])
def test_logits_equal_transformers(oracle, size):
    image = torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = oracle.backbone(image).feature_maps
        mine = resize_scores(_mapped(oracle.decode_head)(features), *size)
        theirs = oracle(image).logits
    assert theirs.std() > 0.1
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_the_second_head_equals_transformers(oracle):
    source = oracle.auxiliary_head
    head = FcnHead(24, 5, 10, dropout=0.1).eval()
    _block(head.block, source.convs[0])
    head.classifier.load_state_dict(source.classifier.state_dict())
    features = [torch.randn(2, n, 64 // s, 64 // s) for n, s in zip(INPUTS, (4, 8, 16, 32), strict=True)]
    with torch.no_grad():
        torch.testing.assert_close(head(features[2]), source(features), rtol=1e-5, atol=1e-5)


def test_the_published_width_has_the_published_number_of_parameters():
    head = UperNet((256, 512, 1024, 2048), 150, DecoderConfig())
    laterals = sum(n * 512 + 2 * 512 for n in (256, 512, 1024))
    pools = 4 * (2048 * 512 + 2 * 512) + 9 * (2048 + 4 * 512) * 512 + 2 * 512
    smooth, fuse = 3 * (9 * 512 * 512 + 2 * 512), 9 * 4 * 512 * 512 + 2 * 512
    expected = laterals + pools + smooth + fuse + 512 * 150 + 150
    assert sum(p.numel() for p in head.parameters()) == expected


@pytest.mark.parametrize("size", [32, 33, 100])
def test_any_input_size_gives_scores_at_the_finest_map(size):
    head = UperNet(INPUTS, 3, DecoderConfig(channels=4)).eval()
    shapes = [-(-size // s) for s in (4, 8, 16, 32)]
    out = head([torch.zeros(1, n, s, s) for n, s in zip(INPUTS, shapes, strict=True)])
    assert out.shape == (1, 3, shapes[0], shapes[0])
