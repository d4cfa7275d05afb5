"""Windows against CAT-Seg's own way, and their settings; other modes are in test_scores.py."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict

from mmseg_escnet import ESCNetError
from mmseg_escnet.models.segmentors.windows import (
    check_test_cfg,
    window_inference,
    window_starts,
)


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


def slow_starts(length, window, stride):
    """From the front at every stride; the last window is moved back so that it ends with it."""
    starts, position = [], 0
    while position + window < length:
        starts.append(position)
        position += stride
    starts.append(max(length - window, 0))
    return starts


@pytest.mark.parametrize('length', [1, 7, 8, 9, 11, 12, 13, 16, 20, 21])
@pytest.mark.parametrize(('window', 'stride'), [(8, 8), (8, 5), (8, 3), (8, 1)])
def test_window_starts(length, window, stride):
    starts = window_starts(length, window, stride)
    assert starts == slow_starts(length, window, stride)
    covered = {i for start in starts for i in range(start, start + window)}
    assert covered >= set(range(length))
    assert max(starts) + min(window, length) == length
    assert len(set(starts)) == len(starts)


def fold_inference(images, network, window, stride):
    """CAT-Seg's own way, with torch's unfold and fold: windows and the global view as one batch."""
    size = images.shape[-2:]
    results = []
    for image in images.split(1):
        columns = F.unfold(image, window, stride=stride)[0]  # (3 * window pixels, windows)
        crops = columns.T.reshape(-1, 3, *window)
        view = F.interpolate(image, window, mode='bilinear', align_corners=False)
        scores = network(torch.cat([crops, view])).softmax(1)
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
    copy = images.clone()
    result = [scores.all() for scores in window_inference(images, network, **arguments)]
    assert images.equal(copy)
    seen, network.seen = network.seen, []
    expected = fold_inference(images, network, (384, 384), (256, 256))
    torch.testing.assert_close(torch.stack(result), expected, rtol=1e-4, atol=1e-5)
    assert {shape[1:] for shape in seen} == {(3, 384, 384)}
    *windows, first_view, second_view = [shape[0] for shape in seen]
    assert (first_view, second_view) == (1, 1)
    assert sum(windows) == 2 * num_windows
    assert windows[:-1] == [batch_size] * (len(windows) - 1), 'only the last batch may be smaller'


def test_the_real_configs_follow_the_protocol(root):
    """Size of the images, of the windows and their distance, for each model and benchmark."""
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


@pytest.mark.parametrize(
    ('test_cfg', 'message'),
    [
        (dict(mode='sliding'), "mode='sliding' must be one of"),
        (dict(keep_scores='yes'), "keep_scores='yes' must be True"),
        (dict(autocast='half'), "autocast='half' must be None, 'bfloat16' or 'float16'"),
        (dict(mode='windows'), 'crop_size=None must be'),
        (dict(mode='windows', crop_size=64), r'crop_size=64 must be \(height, width\)'),
        (dict(mode='windows', crop_size=(64,)), r'crop_size=\(64,\) must be'),
        (dict(mode='slide', crop_size=(8, 8)), "stride=None must be .* for mode='slide'"),
        (dict(mode='windows', crop_size=(8, 8), stride=(8, 9)), 'must not exceed crop_size'),
    ],
)
def test_bad_test_cfg(test_cfg, message):
    with pytest.raises(ESCNetError, match=message):
        check_test_cfg(ConfigDict(dict(mode='whole') | test_cfg))
