"""Saved predictions give the same results as when they were saved."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, METRICS
from PIL import Image

from mmseg_escnet import ESCNetError
from mmseg_escnet.evaluation.saved_predictions import evaluate_predictions, save_predictions

CLASSES = [f'class {i}' for i in range(300)]
IMAGES = ('x/1', 'x/2', 'y/1', 'y/3')


@pytest.fixture
def cfg(tmp_path) -> Config:
    """A data set of four images in two folders, two of one name; 300 classes."""
    init_default_scope('mmseg')
    rng = np.random.default_rng(0)
    for name in IMAGES:
        for kind in ('images', 'labels'):
            (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
        size = (20, 24) if name == 'x/1' else (24, 20)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(
            tmp_path / f'images/{name}.png'
        )
        label = rng.integers(0, 300, size).astype(np.uint16)
        label[0, :3] = 65535
        Image.fromarray(label).save(tmp_path / f'labels/{name}.png')
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(tmp_path),
        img_suffix='.png',
        ignore_index=65535,
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=CLASSES),
        pipeline=[
            dict(type='LoadImage'),
            dict(type='Resize', scale=(16, 16), keep_ratio=False),
            dict(type='LoadLabelMap', ignore_index=65535),
            dict(type='PackSegInputs'),
        ],
    )
    loader = dict(
        batch_size=3,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dataset,
    )
    evaluator = dict(type='OpenVocabIoUMetric', ignore_index=65535, seen=CLASSES[::3])
    return Config(
        dict(test_dataloader=loader, test_evaluator=evaluator, work_dir=str(tmp_path / 'work'))
    )


def predict(cfg, folder) -> dict[str, float]:
    """Like a test with --out, with half of the pixels correct."""
    cfg = Config(cfg.to_dict())
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    save_predictions(cfg, dataset, str(folder))
    metric = METRICS.build(cfg.test_evaluator)
    metric.dataset_meta = dataset.metainfo
    rng = np.random.default_rng(1)
    for item in dataset:
        sample = item['data_samples']
        label = sample.gt_sem_seg.data.numpy()
        guess = rng.integers(0, 300, label.shape)
        ids = np.where((rng.random(label.shape) < 0.5) & (label != 65535), label, guess)
        ids[0, -1] = 65535  # "no class"
        prediction = dict(pred_sem_seg=dict(data=torch.from_numpy(ids)))
        metric.process({}, [sample.to_dict() | prediction])
    return metric.evaluate(len(dataset))


@pytest.mark.parametrize(
    ('dataset', 'evaluator'),
    [
        (dict(), dict()),
        (dict(), dict(background_from=100)),
        (dict(reduce_zero_label=True), dict(iou_metrics=['mIoU', 'mFscore'], prefix='a')),
    ],
    ids=['plain', 'background', 'ids from 1'],
)
def test_same_figures(cfg, tmp_path, dataset, evaluator):
    cfg.test_dataloader.dataset.update(dataset)
    cfg.test_evaluator.update(evaluator)
    expected = predict(cfg, tmp_path / 'out')
    files = {path.relative_to(tmp_path / 'out').as_posix() for path in tmp_path.rglob('out/*/*')}
    assert files == {f'{name}.png' for name in IMAGES}
    assert evaluate_predictions(cfg, tmp_path / 'out') == expected
    assert 20 < expected.get('aAcc', expected.get('a/aAcc')) < 90
    other = Image.open(tmp_path / 'out/x/2.png')
    other.save(tmp_path / 'out/y/3.png')
    assert evaluate_predictions(cfg, tmp_path / 'out') != expected


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda folder: Image.fromarray(np.zeros((20, 23), np.uint16)).save(folder / 'x/1.png'),
            r'prediction .*x/1\.png is 23x20 pixels, the label map of .*x/1\.png 24x20',
        ),
        (lambda folder: (folder / 'x/1.png').rename(folder / '1.png'), r'missing .*\(x/1\.png\)'),
        (lambda folder: (folder / 'names.json').unlink(), 'run tools/test.py with --out or'),
    ],
)
def test_files_that_do_not_match(cfg, tmp_path, change, message):
    predict(cfg, tmp_path / 'out')
    change(tmp_path / 'out')
    with pytest.raises(ESCNetError, match=message):
        evaluate_predictions(cfg, tmp_path / 'out')


@pytest.mark.parametrize(
    ('part', 'change', 'message'),
    [
        ('evaluator', dict(background_from=5), 'with background_from=None, .* config has 5'),
        ('evaluator', dict(ignore_index=400), 'ignore_index=65535, .* test_evaluator.*=400'),
        ('dataset', dict(metainfo=dict(classes=CLASSES[1:])), '300 classes, the data set .* 299'),
        (
            'dataset',
            dict(metainfo=dict(classes=CLASSES[::-1])),
            "'class 0' as class 0, the data set BaseSegDataset 'class 299'",
        ),
    ],
)
def test_config_that_does_not_match(cfg, tmp_path, part, change, message):
    predict(cfg, tmp_path / 'out')
    target = cfg.test_evaluator if part == 'evaluator' else cfg.test_dataloader.dataset
    target.update(change)
    for step in cfg.test_dataloader.dataset.pipeline:
        step.pop('ignore_index', None)
    cfg.test_dataloader.dataset.ignore_index = 65535
    cfg.test_dataloader.dataset.pipeline[2] = dict(type='LoadLabelMap', ignore_index=65535)
    with pytest.raises(ESCNetError, match=message):
        evaluate_predictions(cfg, tmp_path / 'out')


def test_another_ignore_index_everywhere(cfg, tmp_path):
    """A config that agrees with itself, but not with the predictions."""
    predict(cfg, tmp_path / 'out')
    cfg.test_evaluator.ignore_index = cfg.test_dataloader.dataset.ignore_index = 400
    with pytest.raises(ESCNetError, match=r'made with ignore_index=65535, .* config has 400'):
        evaluate_predictions(cfg, tmp_path / 'out')


def test_predictions_need_one_metric_and_a_folder(cfg, tmp_path):
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    (tmp_path / 'file').touch()
    with pytest.raises(ESCNetError, match='file is a file: give a folder'):
        save_predictions(cfg, dataset, str(tmp_path / 'file'))
    cfg.test_evaluator = [cfg.test_evaluator]
    with pytest.raises(ESCNetError, match='--out needs a config with a single test_evaluator'):
        save_predictions(cfg, dataset, str(tmp_path / 'out'))


def test_two_images_with_the_same_file(cfg, tmp_path):
    """Two data sets as one, each with a folder of its own."""
    one = DATASETS.build(cfg.test_dataloader.dataset)
    both = DATASETS.build(dict(type='ConcatDataset', datasets=[one]))
    with pytest.raises(ESCNetError, match=r'x/1\.png and .*y/1\.png would both be written to'):
        save_predictions(cfg, both, str(tmp_path / 'out'))
