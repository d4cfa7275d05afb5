"""Scores in tiles against all of them at once, computed in the plainest way."""

import pytest
import torch
import torch.nn.functional as F
from mmseg.structures import SegDataSample
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mmseg_escnet.models.segmentors import scores as scores_module
from mmseg_escnet.models.segmentors.scores import (
    RowResizer,
    Scores,
    View,
    tiles,
    undo_padding_and_flip,
    write_result,
)
from mmseg_escnet.models.segmentors.windows import window_inference

SIZES = [
    ((6, 9), (24, 36)),
    ((24, 36), (6, 9)),
    ((7, 5), (23, 4)),
    ((8, 8), (8, 8)),
    ((8, 5), (8, 11)),
    ((5, 8), (11, 8)),
    ((1, 1), (9, 7)),
    ((9, 7), (1, 1)),
    ((96, 96), (384, 384)),
    ((640, 640), (683, 512)),
]
WINDOWS = dict(crop_size=(24, 20), stride=(16, 12))
MODES = {
    'whole': dict(crop_size=(40, 52), stride=(40, 52), activate=False, global_view=False),
    'slide': dict(WINDOWS, activate=False, global_view=False),
    'windows': dict(WINDOWS, activate=True, global_view=True),
    'no global view': dict(WINDOWS, activate=True, global_view=False),
    'small': dict(crop_size=(64, 72), stride=(32, 32), activate=True, global_view=True),
}
METAS = {
    'as it is': {},
    'larger': dict(ori_shape=(90, 71)),
    'smaller': dict(ori_shape=(13, 17)),
    'tiny': dict(ori_shape=(1, 1)),
    'padding': dict(padding_size=[3, 5, 2, 7], ori_shape=(50, 47)),
    'own padding': dict(padding_size=[9] * 4, img_padding_size=[0, 16, 4, 0]),
    'horizontal': dict(flip=True, flip_direction='horizontal', ori_shape=(61, 40)),
    'vertical': dict(flip=True, flip_direction='vertical', ori_shape=(23, 90, 3)),
    'all': dict(
        flip=True, flip_direction='diagonal', padding_size=[1, 4, 6, 2], ori_shape=(30, 64)
    ),
    'no flip': dict(flip=False, flip_direction='horizontal'),
}
FLIPS = {'horizontal': (3,), 'vertical': (2,), 'diagonal': (2, 3)}


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize(('source', 'target'), SIZES, ids=str)
def test_any_rows(source, target, align_corners):
    """As PyTorch resizes all at once, from the rows that are needed and no others."""
    maps = torch.randn(3, *source)
    copy = maps.clone()
    expected = F.interpolate(maps[None], target, mode='bilinear', align_corners=align_corners)[0]
    resizer = RowResizer(source, target, align_corners)
    for step in (1, 2, 5, target[0]):
        for first in range(0, target[0], step):
            rows = slice(first, min(first + step, target[0]))
            needed = resizer.needs(rows)
            assert 0 <= needed.start < needed.stop <= source[0]
            found = resizer.resize(maps[:, needed], rows)
            # PyTorch's own places are of float32: off by 1e-4 of a pixel beyond the 600th
            torch.testing.assert_close(found, expected[:, rows], rtol=1e-4, atol=5e-4)
    assert maps.equal(copy)


def test_no_more_rows_than_needed():
    assert RowResizer((8, 8), (8, 8), False).needs(slice(2, 5)) == slice(2, 5)
    assert RowResizer((8, 8), (16, 16), False).needs(slice(3, 5)) == slice(1, 3)


@pytest.mark.parametrize('size', [(50, 1), (640, 640), (3000, 4000), (2, 100_000_000)])
@pytest.mark.parametrize('num_classes', [1, 20, 847])
def test_tiles_are_bounded(num_classes, size):
    """All rows and classes, a bounded number at a time however many there are."""
    for device in ('cpu', 'cuda'):
        for source in (size, (7, 5), (900, 900)):
            rows, classes = tiles(num_classes, size, torch.device(device), source)
            for parts, length in ((rows, size[0]), (classes, num_classes)):
                assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
                assert parts[-1].stop == length
            width = max(size[1], source[1])
            assert rows[0].stop * classes[0].stop * width <= max(scores_module._TILE, width)


class Network:
    """Logits of some classes at a quarter of the size; they depend on the whole view."""

    def __init__(self, num_classes):
        self.weight = torch.randn(num_classes, 3, 4, 4)
        self.from_mean = torch.randn(3, num_classes) * 3

    def __call__(self, images):
        context = images.mean((2, 3)) @ self.from_mean
        return F.conv2d(images, self.weight, stride=4) + context[..., None, None]


def infer(images, network, meta, *, align_corners=False, **options):
    """Scores of one image at its own size."""
    (scores,) = window_inference(images, network, align_corners=align_corners, **options)
    return scores.at_original_size(meta, align_corners=align_corners)


def starts(length, window, stride):
    return sorted({min(s, max(length - window, 0)) for s in range(0, length, stride)})


def plain_scores(images, network, *, crop_size, stride, activate, global_view, align_corners=False):
    """(B, N, H, W), with everything in memory."""

    def view(crop):
        logits = F.interpolate(
            network(crop), crop.shape[-2:], mode='bilinear', align_corners=align_corners
        )
        return logits.softmax(1) if activate else logits

    height, width = images.shape[-2:]
    total = count = 0
    for top in starts(height, crop_size[0], stride[0]):
        for left in starts(width, crop_size[1], stride[1]):
            crop = images[:, :, top : top + crop_size[0], left : left + crop_size[1]]
            around = (
                *(left, width - left - crop.shape[3]),
                *(top, height - top - crop.shape[2]),
            )
            total = total + F.pad(view(crop), around)
            count = count + F.pad(torch.ones(crop.shape[2:]), around)
    scores = total / count
    if global_view:
        squeezed = F.interpolate(images, crop_size, mode='bilinear')
        scores = (scores + F.interpolate(view(squeezed), (height, width), mode='bilinear')) / 2
    return scores


def plain_result(scores, meta, align_corners=False):
    """From scores (N, h, w) to those of the image (N, H, W)."""
    left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
    scores = scores[None, :, top : scores.shape[1] - bottom, left : scores.shape[2] - right]
    if meta.get('flip'):
        scores = scores.flip(FLIPS[meta['flip_direction']])
    size = meta.get('ori_shape', scores.shape[2:])[:2]
    return F.interpolate(scores, size, mode='bilinear', align_corners=align_corners)[0]


def assert_scores(scores, expected):
    """Scores, labels and probabilities are those of (N, H, W)."""
    probabilities = expected if scores.are_probabilities else expected.softmax(0)
    assert (scores.num_classes, *scores.size) == expected.shape
    torch.testing.assert_close(scores.all(), expected, rtol=1e-4, atol=1e-4)
    assert_best(scores.labels(), expected)
    best = scores.best()
    assert best.ids.equal(scores.labels())
    torch.testing.assert_close(best.scores, probabilities.amax(0), rtol=1e-4, atol=1e-5)
    assert best.scores.max() <= 1
    for number in range(len(expected)):
        found = scores.of([number], best.normaliser)
        torch.testing.assert_close(found, probabilities[number], rtol=1e-3, atol=1e-5)
    several = scores.of(range(len(expected)), best.normaliser)
    torch.testing.assert_close(several, best.scores, rtol=1e-4, atol=1e-5)


def assert_best(labels, scores):
    """The labels are the argmax wherever the first two are not equal to rounding."""
    assert labels.dtype == torch.int64
    if len(scores) > 1:
        first, second = scores.topk(2, dim=0).values
        sure = first - second > 1e-4
        assert sure.float().mean() > 0.9
    else:
        sure = torch.ones_like(labels, dtype=torch.bool)
    assert labels[sure].equal(scores.argmax(0)[sure])


def limit(monkeypatch, numbers):
    monkeypatch.setattr(scores_module, '_TILE', numbers)
    monkeypatch.setattr(scores_module, '_TILE_OF_CORE', numbers)


@pytest.mark.parametrize('meta', METAS.values(), ids=METAS)
@pytest.mark.parametrize('mode', MODES)
def test_equal_to_everything_at_once(mode, meta):
    """Two different images; what the pipeline did to them is undone."""
    network, images = Network(7), torch.randn(2, 3, 40, 52)
    found = window_inference(images, network, **MODES[mode])
    assert len(found) == 2
    for scores, expected in zip(found, plain_scores(images, network, **MODES[mode]), strict=True):
        torch.testing.assert_close(scores.all(), expected, rtol=1e-4, atol=1e-4)
        scores = scores.at_original_size(meta, align_corners=False)
        assert scores.are_probabilities == MODES[mode]['activate']
        assert_scores(scores, plain_result(expected, meta))


@pytest.mark.parametrize('global_view', [True, False])
@pytest.mark.parametrize('size', [(20, 21), (8, 8), (6, 5), (5, 19), (19, 5)])
def test_images_around_the_size_of_a_window(size, global_view):
    """Several windows, exactly one, and images that are smaller in one side or both."""
    network, images = Network(3), torch.randn(1, 3, *size)
    options = dict(crop_size=(8, 8), stride=(5, 3), activate=True, global_view=global_view)
    assert_scores(
        infer(images, network, {}, **options), plain_scores(images, network, **options)[0]
    )


@pytest.mark.parametrize('numbers', [1, 100, 500, 3000, 1 << 24])
@pytest.mark.parametrize('mode', ['whole', 'windows'])
def test_tiles_make_no_difference(mode, numbers, monkeypatch):
    """From one row of one class on."""
    limit(monkeypatch, numbers)
    network, images = Network(19), torch.randn(1, 3, 40, 52)
    meta = METAS['all'] | dict(ori_shape=(21, 45))
    scores = infer(images, network, meta, **MODES[mode])
    (expected,) = plain_scores(images, network, **MODES[mode])
    assert_scores(scores, plain_result(expected, meta))


@pytest.mark.parametrize('mode', MODES)
def test_aligned_corners(mode):
    """Of the logits and of the result; the global view comes back without, as ever."""
    network, images, meta = Network(5), torch.randn(1, 3, 40, 52), METAS['padding']
    scores = infer(images, network, meta, **MODES[mode], align_corners=True)
    (expected,) = plain_scores(images, network, **MODES[mode], align_corners=True)
    assert_scores(scores, plain_result(expected, meta, align_corners=True))


@pytest.mark.parametrize('mode', MODES)
def test_a_single_class(mode):
    network, images, meta = Network(1), torch.randn(1, 3, 40, 52), METAS['larger']
    scores = infer(images, network, meta, **MODES[mode])
    assert_scores(scores, plain_result(plain_scores(images, network, **MODES[mode])[0], meta))
    torch.testing.assert_close(scores.best().scores, torch.ones(90, 71))


@pytest.mark.parametrize('numbers', [100, 1 << 24])
@pytest.mark.parametrize('words', [1, 2, 3, 7, 8, 9, 11, 16, 27])
def test_ties_go_to_the_first(words, numbers, monkeypatch):
    """As in an argmax, in one tile or in different ones; in a view into something larger too."""
    limit(monkeypatch, numbers)
    scores = torch.randint(0, 3, (words, 12, 17)).float()
    found = Scores.from_maps(F.pad(scores, (1, 2, 3, 0))[:, 3:, 1:-2])
    assert found.labels().equal(scores.argmax(dim=0))
    assert found.all().equal(scores)


def test_far_apart_logits():
    """Where exponentials would overflow or vanish; the classes take turns from place to place."""
    best = Scores.from_maps(torch.tensor([-1e4, 1e4, 0.0])[:, None, None].repeat(4, 1, 1)).best()
    assert (best.ids == 1).all()
    torch.testing.assert_close(best.scores, torch.full((1, 1), 0.25))

    logits = torch.tensor([[-1e4, 1e4], [1e4, -1e4], [0, 0]])[:, None, :]
    view = View(logits, RowResizer((1, 2), (3, 8), False))
    expected = F.interpolate(logits[None], (3, 8), mode='bilinear').softmax(1)[0]
    found = Scores.from_views([view], (3, 8), activate=True).all()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_probabilities_are_at_most_one():
    """Many windows of a sure class: the sum of their shares is rounded to more than that."""
    options = dict(crop_size=(24, 24), stride=(2, 2), global_view=False)
    scores = infer(torch.randn(1, 3, 40, 52), Network(1), {}, **options)
    assert scores.all().max() > 1
    for found in (scores.best().scores, scores.of([0], None)):
        assert found.max() == 1
        torch.testing.assert_close(found, torch.ones(40, 52))


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(result)[0]:
            if isinstance(leaf, torch.Tensor):
                self.numbers = max(self.numbers, leaf.untyped_storage().nbytes() // 4)
        return result


@pytest.mark.parametrize('mode', MODES)
def test_nothing_large_is_made(mode, monkeypatch):
    """Neither at the size of the network's input nor at that of the image, for any answer."""
    limit(monkeypatch, 4000)
    num_classes, size = 90, (50, 47)
    network, images = Network(num_classes), torch.randn(1, 3, 40, 52)
    seen = Largest()
    with seen:
        scores = infer(images, network, dict(ori_shape=size), **MODES[mode])
        scores.labels()
        scores.of([3], scores.best().normaliser)
        Scores.mean([scores, scores]).labels()
    largest_logits = num_classes * 16 * 18
    assert 0 < seen.numbers <= largest_logits
    assert largest_logits < num_classes * min(40 * 52, size[0] * size[1]) / 7
    with seen:
        scores.all()
    assert seen.numbers == num_classes * size[0] * size[1], 'this one is'


def test_mean_of_versions():
    """An image and its mirror image, of probabilities and of logits; logits are normalised."""
    network, image = Network(6), torch.randn(1, 3, 40, 52)
    metas = [{}, dict(flip=True, flip_direction='horizontal')]
    metas = [meta | dict(ori_shape=(33, 60)) for meta in metas]
    for options in (MODES['windows'], MODES['whole']):
        versions, expected = [], 0
        for images, meta in zip((image, image.flip(3)), metas, strict=True):
            versions.append(infer(images, network, meta, **options))
            scores = plain_result(plain_scores(images, network, **options)[0], meta)
            expected = expected + (scores if options['activate'] else scores.softmax(0)) / 2
        assert_scores(Scores.mean(versions), expected)
    assert_scores(Scores.mean(versions[:1]), versions[0].all().softmax(0))


@pytest.mark.parametrize('keep_scores', [True, False])
def test_what_is_written(keep_scores):
    scores, sample = torch.randn(5, 8, 9), SegDataSample()
    write_result(sample, Scores.from_maps(scores), keep_scores=keep_scores)
    assert sample.pred_sem_seg.data.equal(scores.argmax(0, keepdim=True))
    assert sample.to_dict()['pred_sem_seg']['num_classes'] == 5
    assert ('seg_logits' in sample) == keep_scores
    if keep_scores:
        assert sample.seg_logits.data.equal(scores)


@pytest.mark.parametrize('meta', METAS.values(), ids=METAS)
def test_padding_and_flip_of_whole_maps(meta):
    maps = torch.randn(3, 40, 52)
    expected = plain_result(maps, {k: v for k, v in meta.items() if k != 'ori_shape'})
    assert undo_padding_and_flip(maps, meta).equal(expected)


def answers(scores):
    best = scores.best()
    return [scores.all(), scores.labels(), best.scores, scores.of([1, 2], best.normaliser)]


@pytest.mark.parametrize('mode', MODES)
def test_everything_is_where_the_logits_are(mode, monkeypatch):
    """On any device; the one without numbers refuses those of another, as a GPU does."""
    network, images = Network(4), torch.randn(1, 3, 40, 52, device='meta')
    network.weight, network.from_mean = network.weight.to('meta'), network.from_mean.to('meta')
    scores = infer(images, network, METAS['all'], **MODES[mode])
    mean = Scores.mean([scores, scores])
    for found in answers(scores) + answers(mean):
        assert (found.device.type, found.shape[-2:]) == ('meta', (30, 64))
    monkeypatch.setattr(torch.Tensor, 'cpu', lambda self: torch.zeros(self.shape))
    for found in answers(scores.cpu()) + answers(mean.cpu()):
        assert (found.device.type, found.shape[-2:]) == ('cpu', (30, 64))


def test_on_the_cpu_nothing_changes():
    scores = infer(torch.randn(1, 3, 40, 52), Network(4), METAS['larger'], **MODES['windows'])
    for one, other in zip(answers(scores.cpu()), answers(scores), strict=True):
        assert one.equal(other)
