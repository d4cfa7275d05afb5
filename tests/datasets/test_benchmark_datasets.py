"""The evaluation sets: names, ids from the file to the figures, and their configs."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.datasets import PascalContextDataset59, PascalVOCDataset
from mmseg.registry import DATASETS, METRICS, MODELS, TRANSFORMS
from PIL import Image

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
from mmseg_escnet.files import decode_label_map
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
WIDE = ['ade20k-847', 'pascal-context-459']


@pytest.fixture(autouse=True)
def _mmseg_scope():
    init_default_scope('mmseg')
    MMLogger.get_instance('test_benchmark_datasets')


def merged(name):
    config = Config.fromfile(LEAF)
    config.merge_from_dict(Config.fromfile(CONFIGS / f'{name}.py').to_dict())
    return config


def write(root, config, ids):
    """One image with its label map, and its list, where the config looks for them."""
    dataset = config.test_dataloader.dataset
    images, labels = (root / dataset.data_prefix[key] for key in ('img_path', 'seg_map_path'))
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(ids.shape[::-1], 90).convert('RGB').save(images / 'a.jpg')
    Image.fromarray(ids).save(labels / 'a.png')
    if dataset.get('ann_file'):
        (root / dataset.ann_file).parent.mkdir(parents=True, exist_ok=True)
        (root / dataset.ann_file).write_text('a\n')


def build(root, config, **kwargs):
    return DATASETS.build(dict(config.test_dataloader.dataset, data_root=str(root), **kwargs))


def evaluate(metric_config, dataset, predictions, **kwargs):
    """Figures of predictions (height, width), one for each image of a data set."""
    metric = METRICS.build(dict(metric_config, **kwargs))
    metric.dataset_meta = dataset.metainfo
    for packed, prediction in zip(dataset, predictions, strict=True):
        sample = packed['data_samples']
        sample.set_data(dict(pred_sem_seg=PixelData(data=torch.as_tensor(prediction)[None])))
        metric.process({}, [sample.to_dict()])
    return metric, metric.compute_metrics(metric.results)


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
def test_words_are_a_vocabulary_of_the_model(name):
    kind = BENCHMARKS[name][0]
    words = Vocabulary.create(kind.METAINFO['classes'], kind.METAINFO['palette'])
    encoder = MODELS.build(Config.fromfile(LEAF).model.text_encoder)
    encoder.check(words, open_clip.get_model_config('ViT-B-16')['text_cfg']['context_length'])


@pytest.mark.parametrize('name', BENCHMARKS)
def test_without_data_one_sentence(name, tmp_path):
    with pytest.raises(ESCNetError, match=r'does not exist: (run `mmseg-escnet conv|unpack http)'):
        build(tmp_path, merged(name))


@pytest.mark.parametrize('name', WIDE)
def test_id_255_of_a_wide_set_is_a_class_everywhere(name, tmp_path):
    """From the file through the test pipeline and the metric to the file of the prediction."""
    config = merged(name)
    last = len(BENCHMARKS[name][0].METAINFO['classes']) - 1
    blocks = np.array([[255, 255, 0], [last, 65_535, 256]], np.uint16)
    ids = np.kron(blocks, np.ones((20, 20), np.uint16))
    write(tmp_path, config, ids)
    dataset = build(tmp_path, config)
    packed = dataset[0]
    assert packed['inputs'].shape == (3, 640, 640)
    label = packed['data_samples'].gt_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(label, ids)

    # half of class 255 is taken for 0, and what is ignored for 255
    prediction = ids.astype(np.int64)
    prediction[:20, :20] = 0
    prediction[ids == 65_535] = 255
    output = tmp_path / 'out'
    metric, figures = evaluate(config.test_evaluator, dataset, [prediction], output_dir=str(output))
    iou, present = metric.class_iou(metric.results)
    assert np.flatnonzero(present).tolist() == [0, 255, 256, last]
    np.testing.assert_allclose(iou[[0, 255, 256, last]], [50, 50, 100, 100])
    assert figures['aAcc'] == 80
    assert figures['mIoU_gt'] == 75
    content = (output / 'a.png').read_bytes()
    written = decode_label_map(content, 'a.png')
    assert written.dtype == np.uint16
    np.testing.assert_array_equal(written, prediction)


@pytest.mark.parametrize('name', WIDE)
def test_id_255_of_a_wide_set_in_training(name, tmp_path):
    config = merged(name)
    blocks = np.array([[255, 255, 255], [255, 65_535, 255], [255, 255, 7]], np.uint16)
    ids = np.kron(blocks, np.ones((16, 16), np.uint16))
    write(tmp_path, config, ids)
    steps = [
        dict(type='LoadImage'),
        dict(type='LoadLabelMap'),
        dict(type='Resize', scale=(96, 96)),
        dict(type='RandomCrop', crop_size=(96, 64), cat_max_ratio=1.0, ignore_index=65_535),
        dict(type='RandomFlip', prob=1.0),
        dict(type='PhotoMetricDistortion'),
        dict(type='Pad', size=(80, 112), pad_val=dict(img=0, seg=65_535)),
        dict(type='PackSegInputs'),
    ]
    dataset = build(tmp_path, config, pipeline=steps, test_mode=False)
    for _ in range(5):
        packed = dataset[0]
        label = packed['data_samples'].gt_sem_seg.data[0].numpy()
        assert label.shape == packed['inputs'].shape[1:] == (112, 80)
        assert (label[96:] == 65_535).all()
        assert (label[:, 64:] == 65_535).all()
        crop = label[:96, :64]
        enlarged = np.kron(ids, np.ones((2, 2), np.uint16))[:, ::-1]
        assert any(np.array_equal(crop, enlarged[:, i : i + 64]) for i in range(33))


@pytest.mark.parametrize(('name', 'num_classes'), [('ade20k-150', 150), ('pascal-context-59', 59)])
def test_zero_is_no_class_in_the_files(name, num_classes, tmp_path):
    config = merged(name)
    ids = np.kron(np.array([[0, 1], [num_classes, 2]], np.uint8), np.ones((4, 4), np.uint8))
    write(tmp_path, config, ids)
    dataset = build(tmp_path, config)
    label = dataset[0]['data_samples'].gt_sem_seg.data[0].numpy()
    expected = np.kron([[255, 0], [num_classes - 1, 1]], np.ones((4, 4)))
    np.testing.assert_array_equal(label, expected)
    prediction = np.where(expected == 255, 5, expected).astype(np.int64)
    _, figures = evaluate(config.test_evaluator, dataset, [prediction])
    assert figures['mIoU_gt'] == figures['aAcc'] == 100
    (tmp_path / 'bad').mkdir()
    write(tmp_path / 'bad', config, ids + np.uint8(1))
    with pytest.raises(ESCNetError, match=f'holds id {num_classes + 1}, but the data set has'):
        build(tmp_path / 'bad', config)[0]


def test_voc_background_is_ignored(tmp_path):
    config = merged('pascal-voc-20')
    ids = np.kron(np.array([[0, 19], [255, 1]], np.uint8), np.ones((4, 4), np.uint8))
    write(tmp_path, config, ids)
    dataset = build(tmp_path, config)
    np.testing.assert_array_equal(dataset[0]['data_samples'].gt_sem_seg.data[0], ids)
    prediction = np.where(ids == 255, 3, ids).astype(np.int64)
    _, figures = evaluate(config.test_evaluator, dataset, [prediction])
    assert figures['mIoU_gt'] == figures['aAcc'] == 100


def test_voc_with_background_takes_39_words_for_one_class(tmp_path):
    """21 classes in the figures: every word from the 21st on is background."""
    config = merged('pascal-voc-20b')
    blocks = np.array([[20, 20, 20], [0, 19, 255]], np.uint8)
    ids = np.kron(blocks, np.ones((4, 4), np.uint8))
    write(tmp_path, config, ids)
    dataset = build(tmp_path, config)
    assert len(dataset.metainfo['classes']) == len(dataset.metainfo['palette']) == 59
    np.testing.assert_array_equal(dataset[0]['data_samples'].gt_sem_seg.data[0], ids)
    # background by three of its words, and an object taken for a fourth
    prediction = np.kron([[20, 37, 58], [0, 21, 3]], np.ones((4, 4), np.int64)).astype(np.int64)
    metric, figures = evaluate(config.test_evaluator, dataset, [prediction])
    assert figures['aAcc'] == 80
    assert figures['mIoU_gt'] == pytest.approx((75 + 100 + 0) / 3, abs=0.01)
    assert len(metric.dataset_meta['classes']) == 21


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


def test_chosen_classes_of_a_wide_set(tmp_path):
    config = merged('ade20k-847')
    classes = vocabulary_names('ade847')
    write(tmp_path, config, np.array([[255, 0], [65_535, 846]], np.uint16))
    dataset = build(tmp_path, config, metainfo=dict(classes=(classes[846], classes[255])))
    label = dataset[0]['data_samples'].gt_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(label, [[1, 65_535], [65_535, 0]])


@pytest.mark.parametrize('name', WIDE)
def test_255_as_ignore_index_of_a_wide_set_is_an_error(name, tmp_path):
    config = merged(name)
    write(tmp_path, config, np.zeros((2, 2), np.uint16))
    with pytest.raises(ESCNetError, match='ignore_index=255, which is the id of its class'):
        build(tmp_path, config, ignore_index=255)


def test_colours_are_those_of_mmsegmentation():
    ours, theirs = PascalContext59Dataset.METAINFO, PascalContextDataset59.METAINFO
    assert ours['palette'] == theirs['palette']
    differing = [p for p in zip(ours['classes'], theirs['classes'], strict=True) if p[0] != p[1]]
    assert differing == [('diningtable', 'table')]
    voc = PascalVOCDataset.METAINFO
    for kind in (PascalVOC20Dataset, PascalVOC20bDataset):
        assert kind.METAINFO['classes'][:20] == voc['classes'][1:]
        assert kind.METAINFO['palette'][:20] == voc['palette'][1:]
