"""Training and test pipelines, value by value, beside the recipe.

The recipe is CAT-Seg's (arXiv 2303.11797), whose training ESC-Net shares. Values are read from the
built transforms, so that a default of MMSegmentation which changes is noticed, too.
"""

import copy

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.registry import MODELS, TRANSFORMS
from mmseg.structures import SegDataSample

CONFIGS = ROOT / 'configs'
REAL = sorted((CONFIGS / 'escnet').rglob('*.py'))

LOAD = [dict(type='LoadImage'), dict(type='LoadLabelMap', ignore_index=None)]
PACK = dict(type='PackSegInputs')
FLIP = dict(type='RandomFlip', prob=0.5, direction='horizontal')
# SSD's, which detectron2's ColorAugSSDTransform copies: +-32, x0.5 to x1.5, +-18 of 180 degrees
DISTORTION = dict(
    type='PhotoMetricDistortion',
    brightness_delta=32,
    contrast_lower=0.5,
    contrast_upper=1.5,
    saturation_lower=0.5,
    saturation_upper=1.5,
    hue_delta=18,
)


def resize(width: int, height: int, *, keep_ratio: bool) -> dict:
    return dict(
        type='Resize', scale=(width, height), keep_ratio=keep_ratio, interpolation='bilinear'
    )


def crop(side: int) -> dict:
    """A random crop, whatever its content."""
    return dict(type='RandomCrop', crop_size=(side, side), cat_max_ratio=1.0, ignore_index=255)


SHUFFLED = dict(type='InfiniteSampler', shuffle=True)
IN_ORDER = dict(type='DefaultSampler', shuffle=False)
RECIPE = {
    # MIN_SIZE_TRAIN 384, MAX_SIZE_TRAIN 2560, CROP 384, COLOR_AUG_SSD, SIZE_DIVISIBILITY 384
    'train pipeline': [
        *LOAD,
        resize(2560, 384, keep_ratio=True),
        crop(384),
        FLIP,
        DISTORTION,
        PACK,
    ],
    'train sampler': SHUFFLED,
    'train batch size': 4,
    # 640 x 640 whatever the shape; labels stay at their own size
    'test pipeline': [LOAD[0], resize(640, 640, keep_ratio=False), LOAD[1], PACK],
    'test sampler': IN_ORDER,
    'test batch size': 1,
    'padded to': (384, 384),
    'image padding': 0,
    'label padding': 255,
    'BGR to RGB': True,
    'seed': 0,
}
# 96 px scenes are not resized; hues are part of the names
TOY = RECIPE | {
    'train pipeline': [*LOAD, crop(96), FLIP, DISTORTION | dict(hue_delta=4), PACK],
    'train batch size': 2,
    'test pipeline': [*LOAD, PACK],
    'padded to': (96, 96),
}
SMALL = resize(96, 96, keep_ratio=False)
TOY_FEW_SHOT = TOY | {
    'train pipeline': [*LOAD, SMALL, FLIP, PACK],
    'train batch size': 4,
    'test pipeline': [LOAD[0], SMALL, LOAD[1], PACK],
}
TABLE = [
    *((path, RECIPE) for path in REAL),
    (CONFIGS / 'own_data/escnet_vitb16_few-shot.py', RECIPE),
    (CONFIGS / 'own_data/escnet_toy_few-shot.py', TOY_FEW_SHOT),
    (CONFIGS / 'toyworld/escnet_toy.py', TOY),
]


def settings(cfg: Config) -> dict:
    """What a config says, in the words of the recipe."""
    preprocessor = cfg.model.data_preprocessor
    found = {
        'padded to': preprocessor.size,
        'image padding': preprocessor.pad_val,
        'label padding': preprocessor.seg_pad_val,
        'BGR to RGB': preprocessor.bgr_to_rgb,
        'seed': cfg.randomness.get('seed'),
    }
    for phase in ('train', 'test'):
        loader = cfg[f'{phase}_dataloader']
        found[f'{phase} sampler'] = dict(loader.sampler)
        updates_after = cfg.optim_wrapper.get('accumulative_counts', 1) if phase == 'train' else 1
        found[f'{phase} batch size'] = loader.batch_size * updates_after
        found[f'{phase} pipeline'] = [_values(step) for step in loader.dataset.pipeline]
    assert cfg.val_dataloader.dataset.pipeline == cfg.test_dataloader.dataset.pipeline
    assert cfg.val_dataloader.sampler == cfg.test_dataloader.sampler
    return found


def _values(step: dict) -> dict:
    built, kind = TRANSFORMS.build(copy.deepcopy(step)), step['type']
    known = {one['type']: one for part in (RECIPE, TOY_FEW_SHOT) for one in _steps(part)}
    names = known.get(kind, step).keys() - {'type'}
    return dict(type=kind, **{name: getattr(built, name) for name in names})


def _steps(recipe: dict) -> list[dict]:
    return recipe['train pipeline'] + recipe['test pipeline']


def test_every_trained_config_is_in_the_table():
    listed = {path for path, _ in TABLE}
    leaves = {path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts}
    assert leaves - listed == set((CONFIGS / 'clip').rglob('*.py')), (
        'CLIP alone has a test of its own'
    )
    assert len(listed) > 20


@pytest.mark.parametrize(('path', 'recipe'), TABLE, ids=lambda value: getattr(value, 'stem', ''))
def test_pipelines(path, recipe):
    found = settings(Config.fromfile(path))
    for name, value in recipe.items():
        assert found[name] == value, name
    assert found.keys() == recipe.keys()


@pytest.mark.parametrize(
    'options',
    [
        {'train_dataloader.dataset.pipeline.4.prob': 0.0},
        {'train_dataloader.dataset.pipeline.4.direction': 'vertical'},
        {'train_dataloader.dataset.pipeline.5.hue_delta': 4},
        {'train_dataloader.dataset.pipeline.5.brightness_delta': 0},
        {'train_dataloader.dataset.pipeline.2.scale': (2048, 512)},
        {'train_dataloader.dataset.pipeline.2.keep_ratio': False},
        {'train_dataloader.dataset.pipeline.3.cat_max_ratio': 0.75},
        {'train_dataloader.dataset.pipeline.3.crop_size': (512, 512)},
        {'train_dataloader.sampler.shuffle': False},
        {'train_dataloader.batch_size': 8},
        {'test_dataloader.dataset.pipeline.1.scale': (512, 512)},
        {'test_dataloader.dataset.pipeline.1.keep_ratio': True},
        {'model.data_preprocessor.seg_pad_val': 0},
        {'model.data_preprocessor.pad_val': 114},
        {'randomness.seed': None},
    ],
    ids=str,
)
def test_the_table_notices_a_change(options):
    cfg = Config.fromfile(CONFIGS / 'escnet/escnet_vitb16_coco-stuff.py')
    cfg.merge_from_dict(options)
    cfg.val_dataloader = cfg.test_dataloader
    assert settings(cfg) != RECIPE


@pytest.mark.parametrize('phase', ['train', 'test'])
def test_the_table_notices_a_missing_or_moved_step(phase):
    path = CONFIGS / 'escnet/escnet_vitb16_coco-stuff.py'
    steps = Config.fromfile(path)[f'{phase}_dataloader'].dataset.pipeline
    fewer = [steps[:i] + steps[i + 1 :] for i in range(len(steps))]
    moved = [steps[:i] + [steps[i + 1], steps[i]] + steps[i + 2 :] for i in range(len(steps) - 1)]
    for other in fewer + moved:
        cfg = Config.fromfile(path)
        cfg[f'{phase}_dataloader'].dataset.pipeline = other
        cfg.val_dataloader = cfg.test_dataloader
        assert settings(cfg) != RECIPE


def test_padding_of_a_small_crop():
    """What is padded is black, and has no class."""
    cfg = Config.fromfile(CONFIGS / 'escnet/escnet_vitb16_coco-stuff.py')
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 384, 200, dtype=torch.long)))
    image = torch.full((3, 384, 200), 99, dtype=torch.uint8)
    batch = preprocessor(dict(inputs=[image], data_samples=[sample]), training=True)
    labels = batch['data_samples'][0].gt_sem_seg.data[0]
    assert labels.shape == (384, 384)
    assert (labels[:, :200] == 0).all()
    assert (labels[:, 200:] == 255).all()
    assert (batch['inputs'][0, :, :, 200:] == 0).all()


def test_half_of_the_images_are_flipped_with_their_labels():
    cfg = Config.fromfile(CONFIGS / 'escnet/escnet_vitb16_coco-stuff.py')
    flip = TRANSFORMS.build(cfg.train_dataloader.dataset.pipeline[4])
    image = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    labels = np.arange(8, dtype=np.uint8).reshape(2, 4)
    flips = 0
    for _ in range(200):
        results = dict(img=image.copy(), gt_seg_map=labels.copy(), seg_fields=['gt_seg_map'])
        results |= dict(img_shape=(2, 4))
        results = flip(results)
        way = -1 if results['flip'] else 1
        np.testing.assert_array_equal(results['img'], image[:, ::way])
        np.testing.assert_array_equal(results['gt_seg_map'], labels[:, ::way])
        flips += results['flip']
    assert 70 < flips < 130
