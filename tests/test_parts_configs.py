"""Configs that exchange one part: true to their parents, and each trains one step.

That every config builds at full size is in ``configs/test_configs.py``.
"""

import numpy as np
import open_clip
import pytest
import torch
from conftest import ROOT, toy_clip_cfg
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from segment_anything.modeling import PromptEncoder, TwoWayTransformer

from mmseg_escnet.models.sam_weights import OFFICIAL_SAM_FILES

PARENTS = {
    'eva02-b16': 'vitb16',
    'eva02-l14': 'vitl14',
    'vitl14_sam-vit-l': 'vitl14',
    'vitl14_sam-vit-h': 'vitl14',
}
# where in the model a part has its name, and what the part is called
CHANGES = {
    'eva02-b16': {'backbone': dict(model_name='EVA02-B-16', pretrained='merged2b_s8b_b131k')},
    'eva02-l14': {'backbone': dict(model_name='EVA02-L-14-336', pretrained='merged2b_s6b_b61k')},
    'vitl14_sam-vit-l': {'neck': dict(sam_pretrained='data/weights/sam_vit_l_0b3195.pth')},
    'vitl14_sam-vit-h': {'neck': dict(sam_pretrained='data/weights/sam_vit_h_4b8939.pth')},
}
# EVA-02 has norms within its attention: trained as that, and without weight decay
EVA_KEYS = {'.attn.norm.': dict(lr_mult=0.01, decay_mult=0.0)}
EVA = [name for name in PARENTS if name.startswith('eva')]
SAM = [name for name in PARENTS if 'sam' in name]
# timm's smallest EVA-02, at the patches and image size of L/14
TINY_EVA = toy_clip_cfg() | dict(
    vision_cfg=dict(
        image_size=336,
        timm_model_name='eva02_tiny_patch14_336',
        timm_pool='token',
        timm_proj=None,
    )
)
WORDS = ['cat', 'wet road', 'taxi']


def read(name: str) -> Config:
    return Config.fromfile(ROOT / f'configs/escnet/escnet_{name}_coco-stuff.py')


@pytest.mark.parametrize('name', PARENTS)
def test_differs_from_its_parent_in_that_part_alone(name):
    cfg, expected = read(name), read(PARENTS[name])
    expected.merge_from_dict(dict(model=CHANGES[name]))
    if name in EVA:
        expected.optim_wrapper.paramwise_cfg.custom_keys.update(EVA_KEYS)
    assert cfg.to_dict() == expected.to_dict()


@pytest.mark.parametrize('name', EVA)
def test_weights_are_known_to_open_clip_and_normalised_as_it_does(name):
    cfg = read(name).model
    weights = open_clip.get_pretrained_cfg(cfg.backbone.model_name, cfg.backbone.pretrained)
    assert weights
    assert not weights.get('quick_gelu')
    preprocessor = cfg.data_preprocessor
    np.testing.assert_allclose(preprocessor.mean, 255 * np.array(weights['mean']), atol=1e-5)
    np.testing.assert_allclose(preprocessor.std, 255 * np.array(weights['std']), atol=1e-5)


@pytest.mark.parametrize('name', SAM)
def test_weights_are_official_files(name):
    folder, _, file = read(name).model.neck.sam_pretrained.rpartition('/')
    assert folder == 'data/weights'
    assert file in OFFICIAL_SAM_FILES


@pytest.mark.parametrize('name', PARENTS)
def test_patch_grid_and_windows(name):
    cfg = read(name).model
    with torch.device('meta'):
        backbone = MODELS.build(cfg.backbone)
    assert backbone.grid_size(*cfg.test_cfg.crop_size) == (24, 24)
    patch = backbone.tower.patch_size[0]
    assert (24 * patch == 336) == ('l14' in name)


@pytest.fixture(scope='module')
def sam_file(tmp_path_factory):
    """The decoder of a SAM at its full width, which is one for ViT-B, L and H; random numbers."""
    torch.manual_seed(7)
    encoder = PromptEncoder(256, (64, 64), (1024, 1024), mask_in_chans=16)
    transformer = TwoWayTransformer(2, 256, 8, mlp_dim=2048)
    state_dict = {f'prompt_encoder.{key}': value for key, value in encoder.state_dict().items()}
    for key, value in transformer.state_dict().items():
        state_dict[f'mask_decoder.transformer.{key}'] = value
    path = tmp_path_factory.mktemp('sam') / 'sam.pth'
    torch.save(state_dict, path)
    return path


def train_one_step(cfg):
    """The model, its trainable parameters as initialised, and the losses of a step."""
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train().set_vocabulary(WORDS)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    sample = SegDataSample(
        gt_sem_seg=PixelData(data=torch.randint(len(WORDS), (1, 64, 96))),
        metainfo=dict(img_shape=(64, 96)),
    )
    image = torch.randint(256, (3, 64, 96), dtype=torch.uint8)
    losses = model.train_step(dict(inputs=[image], data_samples=[sample]), wrapper)
    return model, before, losses


@pytest.mark.parametrize('name', PARENTS)
def test_one_training_step(name, sam_file):
    """With a tiny CLIP of the same kind and one block; everything that is trained moves."""
    cfg = read(name)
    clip = TINY_EVA if name in EVA else toy_clip_cfg(patch_size=14, image_size=56)
    cfg.model.backbone.update(model_name=None, model_cfg=clip, pretrained=None)
    cfg.model.neck.update(num_blocks=1, sam_pretrained=str(sam_file))
    cfg.model.data_preprocessor.size = (64, 96)
    model, before, losses = train_one_step(cfg)
    assert losses['loss'].isfinite()

    theirs = torch.load(sam_file, weights_only=True)
    layers = 'neck.blocks.0.sam_block.layers.'
    checked = 0
    for key, value in before.items():
        if key.startswith(layers):
            suffix = key.removeprefix(layers)
            assert torch.equal(value, theirs[f'mask_decoder.transformer.layers.{suffix}']), key
            checked += 1
    assert checked > 10

    assert {key.split('.')[0] for key in before} == {'backbone', 'neck', 'decode_head'}
    for key, parameter in model.named_parameters():
        # what shifts all keys alike, softmax does not see
        if key in before and not key.endswith('k_proj.bias'):
            assert parameter.isfinite().all(), key
            assert not torch.equal(parameter, before[key]), key
    if name in EVA:
        assert 'backbone.clip.visual.trunk.blocks.0.attn.qkv.weight' in before
        assert 'backbone.clip.visual.trunk.blocks.0.mlp.fc1_g.weight' not in before
