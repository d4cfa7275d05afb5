"""The evaluation sets: classes, colours and configs. test_six_benchmarks.py has their ids."""

from pathlib import Path

import open_clip
import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmseg.datasets import PascalContextDataset59, PascalVOCDataset
from mmseg.registry import DATASETS, METRICS, MODELS, TRANSFORMS

from mmseg_escnet.datasets import (
    ADE20K150Dataset,
    ADE20K847Dataset,
    PascalContext59Dataset,
    PascalContext459Dataset,
    PascalVOC20bDataset,
    PascalVOC20Dataset,
    vocabulary_names,
)
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs' / '_base_' / 'datasets'
LEAF = ROOT / 'configs' / 'escnet' / 'escnet_vitb16_coco-stuff.py'
# config: class, vocabulary, id of ignored pixels after loading
BENCHMARKS = {
    'ade20k-847': (ADE20K847Dataset, 'ade847', 65_535),
    'pascal-context-459': (PascalContext459Dataset, 'pc459', 65_535),
    'ade20k-150': (ADE20K150Dataset, 'ade150', 255),
    'pascal-context-59': (PascalContext59Dataset, 'pc59', 255),
    'pascal-voc-20': (PascalVOC20Dataset, 'voc20', 255),
    'pascal-voc-20b': (PascalVOC20bDataset, 'voc20b', 255),
}


@pytest.fixture(autouse=True)
def _mmseg_scope():
    init_default_scope('mmseg')
    MMLogger.get_instance('test_benchmark_datasets')


def merged(name):
    config = Config.fromfile(LEAF)
    config.merge_from_dict(Config.fromfile(CONFIGS / f'{name}.py').to_dict())
    return config


@pytest.mark.parametrize('name', BENCHMARKS)
def test_config_on_a_whole_config(name):
    kind, vocabulary, ignore_index = BENCHMARKS[name]
    config = merged(name)
    assert config.train_dataloader.dataset.type == 'COCOStuff171Dataset'
    for phase in ('val', 'test'):
        loader, evaluator = config[f'{phase}_dataloader'], config[f'{phase}_evaluator']
        dataset = DATASETS.build(dict(loader.dataset, lazy_init=True))
        assert type(dataset) is kind
        assert dataset.metainfo['classes'] == vocabulary_names(vocabulary)
        assert dataset.ignore_index == ignore_index
        assert loader.dataset.test_mode
        steps = [step.type for step in loader.dataset.pipeline]
        assert steps == ['LoadImage', 'Resize', 'LoadLabelMap', 'PackSegInputs']
        assert loader.dataset.pipeline[1].scale == (640, 640)
        assert [TRANSFORMS.build(step) for step in loader.dataset.pipeline]
        metric = METRICS.build(evaluator)
        assert metric.ignore_index == ignore_index
        assert metric.seen == vocabulary_names('coco_stuff171')
        metric.dataset_meta = dataset.metainfo
    assert config.model.test_cfg == Config.fromfile(LEAF).model.test_cfg


@pytest.mark.parametrize('name', BENCHMARKS)
def test_classes_are_a_valid_vocabulary(name):
    kind = BENCHMARKS[name][0]
    words = Vocabulary.create(kind.METAINFO['classes'], kind.METAINFO['palette'])
    encoder = MODELS.build(Config.fromfile(LEAF).model.text_encoder)
    encoder.check(words, open_clip.get_model_config('ViT-B-16')['text_cfg']['context_length'])


@pytest.mark.parametrize('name', BENCHMARKS)
def test_missing_data_is_an_error(name, tmp_path):
    with pytest.raises(ESCNetError, match=r'does not exist: (run `mmseg-escnet conv|unpack http)'):
        DATASETS.build(dict(merged(name).test_dataloader.dataset, data_root=str(tmp_path)))


def test_other_words_for_the_background():
    own = (*vocabulary_names('voc20'), 'street', 'nature')
    dataset = PascalVOC20bDataset(metainfo=dict(classes=own), lazy_init=True)
    assert dataset.metainfo['classes'] == own
    assert len(dataset.metainfo['palette']) == 22
    assert dataset.label_map is None
    palette = [[i, i, i] for i in range(22)]
    dataset = PascalVOC20bDataset(metainfo=dict(classes=own, palette=palette), lazy_init=True)
    assert dataset.metainfo['palette'] == palette
    for words in (own[:20], own[1:], ('street', *own[:20]), ('person',)):
        with pytest.raises(ESCNetError, match='are not the 20 objects of PASCAL VOC'):
            PascalVOC20bDataset(metainfo=dict(classes=words), lazy_init=True)


def test_colours_are_those_of_mmsegmentation():
    ours, theirs = PascalContext59Dataset.METAINFO, PascalContextDataset59.METAINFO
    assert ours['palette'] == theirs['palette']
    differing = [p for p in zip(ours['classes'], theirs['classes'], strict=True) if p[0] != p[1]]
    assert differing == [('diningtable', 'table')]
    voc = PascalVOCDataset.METAINFO
    for kind in (PascalVOC20Dataset, PascalVOC20bDataset):
        assert kind.METAINFO['classes'][:20] == voc['classes'][1:]
        assert kind.METAINFO['palette'][:20] == voc['palette'][1:]
