"""The data set configs build, and deliver what the model expects."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, METRICS, TRANSFORMS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / '_base_' / 'datasets'


@pytest.mark.parametrize('name', ['coco-stuff164k', 'toyworld'])
def test_config_builds(name):
    init_default_scope('mmseg')
    config = Config.fromfile(CONFIGS / f'{name}.py')
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        dataset = DATASETS.build(dict(loader.dataset, lazy_init=True))
        assert dataset.metainfo['classes']
        assert [TRANSFORMS.build(step) for step in loader.dataset.pipeline]
    metric = METRICS.build(config.val_evaluator)
    if metric.seen is not None:
        train = DATASETS.build(dict(config.train_dataloader.dataset, lazy_init=True))
        assert metric.seen == train.metainfo['classes']


def test_coco_stuff_recipe(tmp_path):
    """Shortest edge 384, then a crop of 384x384, whatever the shape of the photograph."""
    import numpy as np
    from mmengine.dataset import Compose
    from PIL import Image

    init_default_scope('mmseg')
    config = Config.fromfile(CONFIGS / 'coco-stuff164k.py')
    Image.new('RGB', (640, 427)).save(tmp_path / 'a.jpg')
    Image.fromarray(np.full((427, 640), 170, np.uint8)).save(tmp_path / 'a.png')
    info = dict(
        img_path=str(tmp_path / 'a.jpg'), seg_map_path=str(tmp_path / 'a.png'), num_classes=171
    )
    packed = Compose(config.train_pipeline)(dict(info))
    assert packed['inputs'].shape == (3, 384, 384)
    assert packed['data_samples'].gt_sem_seg.data.shape == (1, 384, 384)
    packed = Compose(config.test_pipeline)(dict(info))
    assert packed['inputs'].shape == (3, 640, 640)
    assert packed['data_samples'].gt_sem_seg.data.shape == (1, 427, 640)
