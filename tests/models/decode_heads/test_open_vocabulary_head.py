"""OpenVocabularyHead against plain convolutions of concatenations, and its losses."""

from dataclasses import replace

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from models.plain_escnet import plain_head, plain_stage

from mmseg_escnet.models import OpenVocabularyHead
from mmseg_escnet.models.decode_heads.open_vocabulary_head import UpsampleStage
from mmseg_escnet.models.layers import ClassChunks
from mmseg_escnet.models.necks import ESCFeatures

DIMS, SKIP_DIMS = 12, (10, 14)


def randomise(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module


def build(num_classes=3, **kwargs) -> OpenVocabularyHead:
    arguments = dict(
        type='OpenVocabularyHead',
        in_channels=DIMS,
        skip_dims=SKIP_DIMS,
        stage_channels=(32, 16),
        skip_channels=(8, 6),
    )
    head = randomise(MODELS.build(arguments | kwargs))
    head.num_classes = head.out_channels = num_classes
    return head


def features(batch=2, classes=3, height=4, width=6) -> ESCFeatures:
    return ESCFeatures(
        embedding=torch.randn(batch, classes, height, width, DIMS),
        correlation_logits=torch.randn(batch, classes, height, width),
        image=torch.randn(batch, 8, height, width),
        skips=tuple(torch.randn(batch, dims, height, width) for dims in SKIP_DIMS),
        chunks=ClassChunks(2),
    )


def samples(labels) -> list[SegDataSample]:
    return [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]


@pytest.mark.parametrize(('size', 'num_convs'), [((4, 4), 1), ((3, 5), 2)])
@torch.no_grad()
def test_stage_equals_convolution_of_concatenation(size, num_convs):
    stage = randomise(
        UpsampleStage(
            in_channels=8,
            out_channels=32,
            skip_dims=10,
            skip_channels=6,
            skip_scale=2,
            num_convs=num_convs,
        )
    )
    x, skip = torch.randn(6, 8, *size), torch.randn(2, 10, *size)
    from_skip = stage.read_skip(skip)
    assert from_skip.shape == (2, 32, 2 * size[0], 2 * size[1])
    result = stage(x, from_skip)
    assert result.shape == (6, 32, 2 * size[0], 2 * size[1])
    expected = [plain_stage(stage, x[i : i + 1], skip[i // 3][None]) for i in range(6)]
    torch.testing.assert_close(result, torch.cat(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('skip_dims', [SKIP_DIMS, (10, 10)], ids=['two widths', 'one width'])
@pytest.mark.parametrize('residual', [True, False])
@pytest.mark.parametrize('size', [1, 2, 3, 8])
@torch.no_grad()
def test_equals_all_classes_at_once(size, residual, skip_dims):
    """The deeper skip comes first, at twice the grid, the shallower at four times."""
    head = build(residual=residual, skip_dims=skip_dims)
    inputs = replace(
        features(),
        skips=tuple(torch.randn(2, dims, 4, 6) for dims in skip_dims),
        chunks=ClassChunks(size),
    )
    logits = head(inputs)
    assert logits.shape == (2, 3, 16, 24)
    expected = plain_head(head, inputs.embedding, inputs.correlation_logits, inputs.skips)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_classes_do_not_see_each_other():
    head = build()
    inputs = features()
    expected = head(inputs)
    inputs.embedding[0, 1] += 1
    difference = (head(inputs) - expected).abs().amax((2, 3))
    assert difference[0, 1] > 0.01
    difference[0, 1] = 0
    assert difference.max() < 1e-5


@torch.no_grad()
def test_residual():
    """The last correlation, upsampled, is added; untrained, it is all there is."""
    inputs = features()
    head, plain = build(residual=True), build()
    plain.load_state_dict(head.state_dict())
    upsampled = F.interpolate(inputs.correlation_logits, (16, 24), mode='bilinear')
    torch.testing.assert_close(head(inputs), plain(inputs) + upsampled)
    arguments = dict(in_channels=DIMS, skip_dims=SKIP_DIMS)
    assert OpenVocabularyHead(**arguments, residual=True)(inputs).equal(upsampled)
    inputs.correlation_logits *= torch.nan
    assert OpenVocabularyHead(**arguments)(inputs).isfinite().all()


def test_no_weight_per_class():
    head = build()
    assert not hasattr(head, 'conv_seg')
    assert [p.shape for p in head.parameters()] == [p.shape for p in build(50).parameters()]


def test_loss_is_cross_entropy_without_ignored_pixels():
    head = build()
    inputs = features()
    labels = torch.randint(0, 3, (2, 40, 50))
    labels[0, :20] = 255
    labels[1, :, :45] = 255
    result = head.loss(inputs, samples(labels), None)
    logits = F.interpolate(head(inputs), (40, 50), mode='bilinear', align_corners=False)
    expected = F.cross_entropy(logits, labels, ignore_index=255)
    torch.testing.assert_close(result['loss_ce'], expected)
    kept = labels != 255
    accuracy = (logits.argmax(1)[kept] == labels[kept]).float().mean() * 100
    torch.testing.assert_close(result['acc_seg'].view(()), accuracy)


def test_wide_labels():
    """With 300 classes 255 is a class, and 65535 is ignored."""
    head = build(300, ignore_index=65535)
    inputs = features(batch=1, classes=300)
    labels = torch.randint(250, 260, (1, 16, 24))
    labels[0, :4] = 65535
    result = head.loss(inputs, samples(labels), None)['loss_ce']
    torch.testing.assert_close(
        result, F.cross_entropy(head(inputs), labels, ignore_index=65535), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ('loss_decode', 'names'),
    [
        (dict(type='CrossEntropyLoss', use_sigmoid=True), {'loss_ce'}),
        (dict(type='LovaszLoss', reduction='none'), {'loss_lovasz'}),
        (dict(type='DiceLoss', use_sigmoid=False), {'loss_dice'}),
        ([dict(type='CrossEntropyLoss'), dict(type='DiceLoss')], {'loss_ce', 'loss_dice'}),
    ],
    ids=['sigmoid', 'lovasz', 'dice', 'two'],
)
def test_other_losses(loss_decode, names):
    """Chosen by config; each of them alone reaches every parameter of the head."""
    head = build(loss_decode=loss_decode)
    inputs = features()
    labels = torch.randint(0, 3, (2, 16, 24))
    labels[:, 0] = 255
    losses = head.loss(inputs, samples(labels), None)
    assert {name for name in losses if 'loss' in name} == names
    for name in names:
        head.zero_grad()
        losses[name].backward(retain_graph=True)
        assert losses[name] > 0
        gradients = {key: p.grad for key, p in head.named_parameters()}
        assert gradients
        for key, gradient in gradients.items():
            assert gradient.isfinite().all(), key
            # a shift of all logits alike is invisible to a softmax
            assert gradient.abs().sum() > 0 or key == 'predict_logits.bias', key


@torch.no_grad()
def test_mmseg_predict():
    head = build()
    inputs = features()
    logits = head.predict(inputs, [dict(img_shape=(33, 47))] * 2, None)
    expected = F.interpolate(head(inputs), (33, 47), mode='bilinear', align_corners=False)
    torch.testing.assert_close(logits, expected)
