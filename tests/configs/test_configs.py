"""Every config of the repository is read and built, and says what the recipe says."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmseg.registry import MODELS, TRANSFORMS

from mmseg_escnet.evaluation.zero_shot_benchmarks import BENCHMARKS

CONFIGS = sorted((ROOT / 'configs').rglob('*.py'))
LEAVES = [path for path in CONFIGS if '_base_' not in path.parts]
BASES = [path for path in CONFIGS if '_base_' in path.parts]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / 'configs'))


def test_there_are_configs():
    assert {'escnet/escnet_vitl14_coco-stuff.py', 'escnet/escnet_vitb16_coco-stuff.py'} <= {
        name(path) for path in LEAVES
    }
    assert len(BASES) >= 5


@pytest.mark.parametrize('path', BASES, ids=name)
def test_every_base_is_read_and_is_part_of_a_leaf_or_a_benchmark(path):
    Config.fromfile(path)
    used = {Path(file).resolve() for leaf in LEAVES for file in _files(leaf)}
    used |= {ROOT / 'configs/_base_/datasets' / benchmark.config for benchmark in BENCHMARKS}
    assert path in used, 'no config uses it'


def _files(path: Path) -> list[str]:
    bases = Config._get_base_files(str(path))
    found = [str(path)]
    for base in bases:
        if '::' not in base:
            found += _files((path.parent / base).resolve())
    return found


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_every_leaf_builds(path):
    """On the meta device: all modules in their full size, none of their memory."""
    assert len(path.read_text().splitlines()) <= 25, 'a leaf config says only what differs'
    cfg = Config.fromfile(path)
    assert 'mmseg_escnet.components' in cfg.custom_imports.imports
    assert any(hook.type == 'VocabularyHook' for hook in cfg.custom_hooks)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) > 0
    phases = ('test',) if cfg.model.type == 'CLIPReadout' else ('train', 'val', 'test')
    for phase in phases:
        for transform in cfg[f'{phase}_dataloader'].dataset.pipeline:
            assert transform.type in TRANSFORMS, transform.type
    # a key that no parameter's name contains would silently leave its rate unchanged
    for key in cfg.get('optim_wrapper', {}).get('paramwise_cfg', {}).get('custom_keys', {}):
        applies = [n for n, p in model.named_parameters() if key in n and p.requires_grad]
        without = ('no-sam', 'no-image', 'few-shot')  # frozen there, or not there at all
        assert applies or any(word in path.name for word in without), key


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_images_are_normalised_as_clip_was_trained(path):
    preprocessor = Config.fromfile(path).model.data_preprocessor
    np.testing.assert_allclose(
        preprocessor.mean, 255 * np.array(open_clip.OPENAI_DATASET_MEAN), atol=1e-5
    )
    np.testing.assert_allclose(
        preprocessor.std, 255 * np.array(open_clip.OPENAI_DATASET_STD), atol=1e-5
    )
    assert preprocessor.bgr_to_rgb, 'images are read as BGR'


def test_normalisation_of_a_picture():
    """A red BGR picture comes out as CLIP's own preprocessing of a red RGB picture."""
    cfg = Config.fromfile(ROOT / 'configs/escnet/escnet_vitb16_coco-stuff.py')
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    picture = torch.zeros(3, 384, 384, dtype=torch.uint8)
    picture[2] = 200  # red, in BGR order
    result = preprocessor(dict(inputs=[picture]), training=False)['inputs'][0, :, 0, 0]
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD)
    expected = (torch.tensor([200 / 255, 0, 0]) - mean) / std
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_real_configs_follow_the_recipe():
    for architecture, size in (('vitb16', 'ViT-B-16'), ('vitl14', 'ViT-L-14-336')):
        cfg = Config.fromfile(ROOT / f'configs/escnet/escnet_{architecture}_coco-stuff.py')
        assert cfg.model.backbone.model_name == size
        assert cfg.model.backbone.pretrained == 'openai'
        assert cfg.model.backbone.trainable == 'attention'
        assert cfg.model.neck.num_blocks == 4
        assert cfg.model.neck.prompt_generator.num_objects == 5
        optimizer = cfg.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 2e-4, 1e-4)
        assert cfg.optim_wrapper.clip_grad.max_norm == 0.01
        assert cfg.train_cfg.max_iters == cfg.param_scheduler[0].T_max == 80000
        assert cfg.train_dataloader.batch_size == 4
        test = cfg.model.test_cfg
        assert (test.mode, test.crop_size, test.stride) == ('windows', (384, 384), (256, 256))
        assert cfg.model.decode_head.loss_decode.avg_non_ignore
        with torch.device('meta'):
            backbone = MODELS.build(cfg.model.backbone)
        assert backbone.grid_size(384, 384) == (24, 24)
