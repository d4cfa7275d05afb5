"""CLIP alone on the toy world: its figures are those of the raw read-out, and follow each step."""

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image
from sklearn.metrics import confusion_matrix

from mmseg_escnet.config import clip_alone
from mmseg_escnet.models.clip_weights import set_activation
from mmseg_escnet.toyworld.experiment import build_dataset, measure
from mmseg_escnet.toyworld.scenes import scene
from mmseg_escnet.toyworld.vocabulary import ALL_NAMES, LARGE_NAMES, with_synonyms

NUM_SCENES = 6


@pytest.fixture(scope='module')
def scenes():
    return [scene(1, number) for number in range(NUM_SCENES)]


@pytest.fixture(scope='module')
def cfg(scenes, tmp_path_factory):
    """The config of the toy world, with some scenes to test on."""
    root = tmp_path_factory.mktemp('scenes')
    for kind, index in (('images', 0), ('annotations', 1)):
        (root / kind / 'val').mkdir(parents=True)
        for number, pair in enumerate(scenes):
            Image.fromarray(pair[index]).save(root / kind / 'val' / f'{number}.png')
    cfg = Config.fromfile(ROOT / 'configs/toyworld/escnet_toy.py')
    cfg.test_dataloader.dataset.data_root = f'{root}/'
    return cfg


@pytest.fixture
def model(cfg):
    init_default_scope('mmseg')
    model = MODELS.build(clip_alone(cfg.model))
    model.init_weights()
    return model.eval()


def figures(cfg, model, **options):
    init_default_scope('mmseg')
    return measure(model, build_dataset(cfg), cfg.test_evaluator, **options).metrics


@torch.no_grad()
def by_hand(model, image, names):
    """The class (H, W) whose text has the highest cosine with each patch, resized."""
    pixels = torch.tensor(image).permute(2, 0, 1).float()
    mean = torch.tensor([122.7709383, 116.7460125, 104.09373615]).view(3, 1, 1)
    std = torch.tensor([68.5005327, 66.6321579, 70.3231630]).view(3, 1, 1)
    features = F.normalize(model.backbone(((pixels - mean) / std)[None]).image[0], dim=0)
    texts = [f'A photo of a {name} in the scene' for name in names]
    tokens = model.text_encoder.tokenizer(texts, context_length=model.backbone.clip.context_length)
    text = F.normalize(model.backbone.clip.encode_text(tokens), dim=1)
    cosines = torch.einsum('nd,dhw->nhw', text, features)[None]
    return F.interpolate(cosines, image.shape[:2], mode='bilinear')[0].argmax(dim=0).numpy()


def test_figures_of_the_raw_readout(cfg, model, scenes):
    found = figures(cfg, model)
    confusion = sum(
        confusion_matrix(labels.ravel(), by_hand(model, image, ALL_NAMES).ravel(), labels=range(72))
        for image, labels in scenes
    )
    right, truth, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    iou = right[truth > 0] / (truth + predicted - right)[truth > 0]
    assert found['mIoU_gt'] == pytest.approx(100 * iou.mean(), abs=0.006)
    assert found['mIoU_gt'] > 20, 'of the miniature CLIP; chance is below 1'


def break_activation(model):
    set_activation(model.backbone.clip, quick_gelu=False)


def break_templates(model):
    model.text_encoder.templates = ('{}',)


def break_channels(model):
    model.data_preprocessor.channel_conversion = False


@pytest.mark.parametrize('break_it', [break_activation, break_templates, break_channels])
def test_a_broken_setting_changes_the_figure(cfg, model, break_it):
    right = figures(cfg, model)
    break_it(model)
    assert figures(cfg, model)['mIoU_gt'] != right['mIoU_gt']


@pytest.mark.parametrize('which', ['names', 'labels'])
def test_an_offset_changes_the_figure(cfg, model, scenes, tmp_path, which):
    right = figures(cfg, model)['mIoU_gt']
    if which == 'names':
        assert figures(cfg, model, words=ALL_NAMES[1:] + ALL_NAMES[:1])['mIoU_gt'] < right / 2
        return
    shifted = cfg.copy()
    for number, (_, labels) in enumerate(scenes):
        path = tmp_path / 'annotations' / 'val' / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((labels + 1) % 72).save(path)
    dataset = shifted.test_dataloader.dataset
    dataset.data_prefix = dict(
        img_path=f'{dataset.data_root}images/val', seg_map_path=f'{tmp_path}/annotations/val'
    )
    dataset.data_root = ''
    assert figures(shifted, model)['mIoU_gt'] < right / 2


def test_synonyms_belong_to_their_class(cfg, model, scenes):
    """The best of two names; where only the second is right, the class is still found."""
    model.text_encoder.synonyms = 'max'
    words = [with_synonyms(name) for name in ALL_NAMES]
    assert any('|' in word for word in words)
    found = figures(cfg, model, words=words)['mIoU_gt']
    turned = [' | '.join(reversed(word.split(' | '))) for word in words]
    assert figures(cfg, model, words=turned)['mIoU_gt'] == found
    pairs = [f'{LARGE_NAMES[-1 - number]} | {name}' for number, name in enumerate(ALL_NAMES[:20])]
    both = figures(cfg, model, words=[*pairs, *ALL_NAMES[20:]])['mIoU_gt']
    model.text_encoder.synonyms = 'first'
    first = figures(cfg, model, words=[*pairs, *ALL_NAMES[20:]])['mIoU_gt']
    assert both > first, 'the first names alone are of what is in no scene'
