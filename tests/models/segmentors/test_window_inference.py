"""window_inference against a slow loop over windows and pixels; see also test_score_maps.py."""

import pytest
import torch
import torch.nn.functional as F

from mmseg_escnet.models.segmentors.window_inference import window_inference, window_starts


class Network:
    """Three classes whose logits depend on the pixel, its neighbours and the whole window.

    They are as large as the window here.
    """

    def __init__(self):
        self.weight = torch.randn(3, 3, 3, 3)
        self.from_mean = torch.randn(3, 3) * 3
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, images):
        self.seen.append(tuple(images.shape))
        context = images.mean((2, 3)) @ self.from_mean.T
        return F.conv2d(images, self.weight, padding=1) + context[..., None, None]

    def probabilities(self, images):
        return self(images).softmax(1)


def infer(images, network, **options):
    """(B, 3, H, W)."""
    return torch.stack([scores.all() for scores in window_inference(images, network, **options)])


def slow_starts(length, window, stride):
    """From the front at every stride; the last window is moved back so that it ends with it."""
    starts, position = [], 0
    while position + window < length:
        starts.append(position)
        position += stride
    starts.append(max(length - window, 0))
    return starts


def slow_inference(image, network, crop, stride, global_view, activate_first=True):
    """One image (3, H, W): every window alone, every pixel divided by its own count."""
    _, height, width = image.shape
    total, count = torch.zeros(3, height, width), torch.zeros(height, width)
    function = network.probabilities if activate_first else network
    for top in slow_starts(height, crop[0], stride[0]):
        for left in slow_starts(width, crop[1], stride[1]):
            rows, columns = slice(top, top + crop[0]), slice(left, left + crop[1])
            total[:, rows, columns] += function(image[None, :, rows, columns])[0]
            count[rows, columns] += 1
    assert count.min() >= 1
    result = total / count
    if global_view:
        squeezed = F.interpolate(image[None], crop, mode='bilinear', align_corners=False)
        view = function(squeezed)
        view = F.interpolate(view, (height, width), mode='bilinear', align_corners=False)[0]
        result = (result + view) / 2
    return result if activate_first else result.softmax(0)


@pytest.mark.parametrize('length', [1, 7, 8, 9, 11, 12, 13, 16, 20, 21])
@pytest.mark.parametrize(('window', 'stride'), [(8, 8), (8, 5), (8, 3), (8, 1)])
def test_window_starts(length, window, stride):
    starts = window_starts(length, window, stride)
    assert starts == slow_starts(length, window, stride)
    covered = {i for start in starts for i in range(start, start + window)}
    assert covered >= set(range(length))
    assert max(starts) + min(window, length) == length
    assert len(set(starts)) == len(starts)


SIZES = {
    'several windows': (20, 20),
    'non-square': (13, 21),
    'exactly one window': (8, 8),
    'smaller than a window': (6, 5),
    'smaller in one side': (5, 19),
}


@pytest.mark.parametrize('size', SIZES.values(), ids=SIZES)
@pytest.mark.parametrize('global_view', [True, False])
@pytest.mark.parametrize('batch_size', [1, 3])
def test_equals_slow_loop(size, global_view, batch_size):
    """Two different images at a time."""
    network = Network()
    images = torch.randn(2, 3, *size) + torch.tensor([0.0, 0.5])[:, None, None, None]
    arguments = dict(crop_size=(8, 8), stride=(5, 3), global_view=global_view)
    result = infer(images, network, **arguments, batch_size=batch_size)
    assert result.shape == (2, 3, *size)
    assert max(shape[0] for shape in network.seen) <= batch_size
    torch.testing.assert_close(result.sum(1), torch.ones(2, *size))
    for image, scores in zip(images, result, strict=True):
        expected = slow_inference(image, network, (8, 8), (5, 3), global_view)
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_non_square_window():
    network = Network()
    images = torch.randn(1, 3, 17, 14)
    result = infer(images, network, crop_size=(10, 6), stride=(4, 5))
    expected = slow_inference(images[0], network, (10, 6), (4, 5), True)
    torch.testing.assert_close(result[0], expected, rtol=1e-4, atol=1e-5)
    assert set(network.seen) == {(1, 3, 10, 6)}


def test_windows_are_run_at_most_batch_size_at_a_time():
    network = Network()
    arguments = dict(crop_size=(8, 8), stride=(4, 4), global_view=False)
    window_inference(torch.randn(1, 3, 16, 12), network, **arguments, batch_size=4)
    assert [shape[0] for shape in network.seen] == [4, 2]  # 3 x 2 windows


def test_averaged_after_the_activation():
    """The mean of softmaxes and the softmax of means differ, and the former is the protocol."""
    network = Network()
    images = torch.randn(1, 3, 14, 14)
    result = infer(images, network, crop_size=(8, 8), stride=(3, 3))
    arguments = (images[0], network, (8, 8), (3, 3), True)
    torch.testing.assert_close(result[0], slow_inference(*arguments), rtol=1e-4, atol=1e-5)
    wrong = slow_inference(*arguments, activate_first=False)
    assert (result[0] - wrong).abs().max() > 0.05


def test_images_are_not_changed():
    images = torch.randn(1, 3, 14, 14)
    copy = images.clone()
    window_inference(images, Network(), crop_size=(8, 8), stride=(3, 3))
    assert images.equal(copy)


def fold_inference(images, network, window, stride):
    """CAT-Seg's own way, with torch's unfold and fold: windows and the global view as one batch."""
    size = images.shape[-2:]
    results = []
    for image in images.split(1):
        columns = F.unfold(image, window, stride=stride)[0]  # (3 * window pixels, windows)
        crops = columns.T.reshape(-1, 3, *window)
        view = F.interpolate(image, window, mode='bilinear', align_corners=False)
        scores = network.probabilities(torch.cat([crops, view]))
        folded = F.fold(scores[:-1].flatten(1).T[None], size, window, stride=stride)
        count = F.fold(
            torch.ones_like(columns)[None, : window[0] * window[1]], size, window, stride=stride
        )
        whole = F.interpolate(scores[-1:], size, mode='bilinear', align_corners=False)
        results.append((folded / count + whole) / 2)
    return torch.cat(results)


@pytest.mark.parametrize('batch_size', [1, 2, 3, 9])
@pytest.mark.parametrize(
    ('size', 'num_windows'), [((640, 640), 4), ((640, 896), 6), ((896, 384), 3)], ids=str
)
def test_protocol_of_the_benchmarks(size, num_windows, batch_size):
    """Windows of 384 at 256, a third of one over the next; two images, batches across them."""
    network = Network()
    images = torch.randn(2, 3, *size)
    arguments = dict(crop_size=(384, 384), stride=(256, 256), batch_size=batch_size)
    result = infer(images, network, **arguments)
    seen, network.seen = network.seen, []
    expected = fold_inference(images, network, (384, 384), (256, 256))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    assert {shape[1:] for shape in seen} == {(3, 384, 384)}
    *windows, first_view, second_view = [shape[0] for shape in seen]
    assert (first_view, second_view) == (1, 1)
    assert sum(windows) == 2 * num_windows
    assert windows[:-1] == [batch_size] * (len(windows) - 1), 'only the last batch may be smaller'


def test_the_real_configs_follow_the_protocol(root):
    """Size of the images, of the windows and their distance, for each model and benchmark."""
    from mmengine.config import Config

    models = [
        Config.fromfile(root / f'configs/escnet/escnet_{name}_coco-stuff.py').model.test_cfg
        for name in ('vitb16', 'vitl14')
    ]
    for test_cfg in models:
        assert (test_cfg.mode, test_cfg.get('global_view', True)) == ('windows', True)
        assert (test_cfg.crop_size, test_cfg.stride) == ((384, 384), (256, 256))
    names = ('ade20k-150', 'ade20k-847', 'pascal-context-59', 'pascal-context-459')
    for name in (*names, 'pascal-voc-20', 'pascal-voc-20b', 'coco-stuff164k'):
        data = Config.fromfile(root / f'configs/_base_/datasets/{name}.py')
        steps = {step.type: step for step in data.test_dataloader.dataset.pipeline}
        assert steps['Resize'] == dict(type='Resize', scale=(640, 640), keep_ratio=False)
        assert list(steps).index('LoadLabelMap') > list(steps).index('Resize')
