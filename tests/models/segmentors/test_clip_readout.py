"""CLIP alone against a loop over windows, phrases and heads that is written out here."""

import cv2
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, small_clip_cfg, toy_clip_cfg, toy_model_cfg, write_openai_clip
from mmengine.config import Config
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from PIL import Image

from mmseg_escnet import ESCNetError, Vocabulary
from mmseg_escnet.apis import OpenVocabInferencer
from mmseg_escnet.apis.clip_config import clip_config
from mmseg_escnet.models import OpenCLIPBackbone

CONFIG = ROOT / 'configs/clip/clip_vitb16_readout.py'
READOUTS = ['value', 'correlative', 'attention']
MEAN = torch.tensor([122.7709383, 116.7460125, 104.09373615])
STD = torch.tensor([68.5005327, 66.6321579, 70.3231630])
CLASSES = {'grass': ['grass', 'lawn', 'meadow'], 'sky': ['sky'], 'cow': ['cow', 'cattle']}


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A file of OpenAI's layout."""
    return tmp_path_factory.mktemp('clip') / 'ViT-B-16.pt'


@pytest.fixture(scope='module', autouse=True)
def clip(weights):
    """The model that the weights are of."""
    return write_openai_clip(weights)


def inferencer(weights, **options):
    cfg_options = {
        'model.backbone.model_name': None,
        'model.backbone.model_cfg': small_clip_cfg(),
        'model.backbone.pretrained': str(weights),
    }
    return OpenVocabInferencer(CONFIG, cfg_options=cfg_options | options)


# -- by hand ---------------------------------------------------------------------------------------


def attend(query, key, value):
    """Of one head: (L, W) each."""
    weights = query @ key.T / query.shape[1] ** 0.5
    return weights.softmax(dim=1) @ value


def last_block(block, x, readout):
    """Tokens (1 + L, W) after the last block."""
    normed = block.ln_1(x)
    attention = block.attn
    query, key, value = (normed @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, 1)
    heads = []
    parts = (t.chunk(attention.num_heads, 1) for t in (query, key, value))
    for q, k, v in zip(*parts, strict=True):
        if readout == 'value':
            heads.append(v)
        elif readout == 'correlative':
            heads.append(attend(q, q, v) + attend(k, k, v))
        else:
            heads.append(attend(q, k, v))
    x = x + torch.cat(heads, 1) @ attention.out_proj.weight.T + attention.out_proj.bias
    return x + block.mlp(block.ln_2(x))


def dense(clip, crop, readout):
    """Unit vectors (14, 14, D) of a crop (3, 224, 224)."""
    visual = clip.visual
    x = visual.conv1(crop[None]).flatten(2)[0].T
    x = torch.cat([visual.class_embedding[None], x]) + visual.positional_embedding
    x = visual.ln_pre(x)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x[None])[0]
    x = last_block(visual.transformer.resblocks[-1], x, readout)
    x = visual.ln_post(x[1:]) @ visual.proj
    return F.normalize(x, dim=1).unflatten(0, (14, 14))


def embed(clip, phrase):
    """The mean of a phrase over CLIP's 80 templates, normalised before and afterwards."""
    texts = [template(phrase) for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert len(texts) == 80
    features = clip.encode_text(open_clip.get_tokenizer('ViT-B-16')(texts))
    return F.normalize(F.normalize(features, dim=1).mean(dim=0), dim=0)


def starts(side):
    found = list(range(0, side - 224, 112))
    return [*found, side - 224]


@torch.no_grad()
def by_hand(clip, image, classes, readout='correlative'):
    """Label map of an RGB array (H, W, 3), and the two best scores of every pixel."""
    height, width = image.shape[:2]
    scale = min(336 / min(height, width), 2048 / max(height, width))
    size = int(width * scale + 0.5), int(height * scale + 0.5)
    small = torch.tensor(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)).float()
    small = ((small - MEAN) / STD).permute(2, 0, 1)
    phrases = [(number, phrase) for number, of in enumerate(classes) for phrase in of]
    text = torch.stack([embed(clip, phrase) for _, phrase in phrases])
    total = torch.zeros(len(phrases), *small.shape[1:])
    count = torch.zeros(small.shape[1:])
    for top in starts(small.shape[1]):
        for left in starts(small.shape[2]):
            here = slice(top, top + 224), slice(left, left + 224)
            cosines = dense(clip, small[:, here[0], here[1]], readout) @ text.T
            total[:, here[0], here[1]] += F.interpolate(
                cosines.permute(2, 0, 1)[None], (224, 224), mode='bilinear'
            )[0]
            count[here] += 1
    scores = F.interpolate((total / count)[None], (height, width), mode='bilinear')[0]
    owners = [number for number, _ in phrases]
    of_class = torch.stack(
        [
            scores[[i for i, owner in enumerate(owners) if owner == number]].amax(dim=0)
            for number in range(len(classes))
        ]
    )
    return of_class.argmax(dim=0).numpy(), of_class.sort(dim=0, descending=True).values.numpy()


def assert_same_labels(labels, expected, scores):
    """But for pixels where two classes are as good as each other."""
    wrong = labels != expected
    assert wrong.mean() < 1e-3
    assert (scores[0] - scores[1])[wrong].max(initial=0) < 1e-5


def picture(height, width, seed=0):
    """Colours that change slowly, with noise upon them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noise = rng.normal(0, 20, (height, width, 3))
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


# -- tests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('readout', READOUTS)
@torch.no_grad()
def test_readouts_of_the_last_block(clip, weights, readout):
    backbone = OpenCLIPBackbone(
        model_cfg=small_clip_cfg(), pretrained=str(weights), readout=readout
    )
    backbone.init_weights()
    crops = torch.randn(2, 3, 224, 224)
    found = F.normalize(backbone.eval()(crops).image, dim=1)
    expected = torch.stack([dense(clip, crop, readout).permute(2, 0, 1) for crop in crops])
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize('readout', READOUTS)
@pytest.mark.parametrize('size', [(300, 400), (500, 300), (336, 336), (90, 700)])
def test_label_maps_equal_those_of_a_loop(clip, weights, readout, size):
    image = picture(*size)
    segmenter = inferencer(weights, **{'model.backbone.readout': readout})
    result = segmenter(image, CLASSES, synonyms=None)
    expected, scores = by_hand(clip, image, CLASSES.values(), readout)
    assert len(np.unique(expected)) > 1
    assert_same_labels(result.labels, expected, scores)
    best = torch.tensor(result.class_scores('grass'))
    np.testing.assert_array_equal(best, result.class_scores('lawn'))


def test_real_photographs(clip, weights, real_samples):
    paths = sorted(real_samples.rglob('*.jpg'))[::4]
    assert paths
    segmenter = inferencer(weights)
    for path in paths:
        image = np.array(Image.open(path).convert('RGB'))
        result = segmenter(path, CLASSES, synonyms=None)
        assert_same_labels(result.labels, *by_hand(clip, image, CLASSES.values()))


def test_runner_path_is_the_same(clip, weights):
    segmenter = inferencer(weights)
    model = segmenter.model
    model.set_vocabulary(Vocabulary.create(list(CLASSES), phrases=list(CLASSES.values())))
    image = picture(300, 400)
    inputs, meta = segmenter._inputs(image[..., ::-1])
    model.test_cfg.keep_scores = True
    (sample,) = model.predict(inputs, [SegDataSample(metainfo=meta)])
    assert model.num_classes == 3 == sample.pred_sem_seg.num_classes
    assert sample.seg_logits.data.shape == (3, 300, 400)
    expected, scores = by_hand(clip, image, CLASSES.values())
    assert_same_labels(sample.pred_sem_seg.data[0].numpy(), expected, scores)
    np.testing.assert_allclose(
        sample.seg_logits.data.max(dim=0).values,
        scores[0] * clip.logit_scale.exp().item(),
        atol=1e-4,
    )


def test_synonyms_kept_apart_are_no_mean(weights):
    image = picture(300, 400)
    segmenter = inferencer(weights)
    maps = {how: segmenter(image, CLASSES, synonyms=how).labels for how in ('max', 'mean', 'first')}
    assert np.array_equal(maps['max'], segmenter(image, CLASSES, synonyms=None).labels)
    assert not np.array_equal(maps['max'], maps['mean'])
    assert not np.array_equal(maps['max'], maps['first'])
    text = segmenter.text_features(CLASSES, synonyms='max')
    assert text.shape == (6, 32)
    (again,) = segmenter.stream([image], CLASSES, synonyms='max', text_features=text)
    np.testing.assert_array_equal(again.labels, maps['max'])


def test_order_of_classes_and_of_their_names(weights):
    """Classes follow their order, and that of the names within a class does not matter."""
    image = picture(300, 400)
    segmenter = inferencer(weights)
    labels = segmenter(image, CLASSES, synonyms='max').labels
    turned = {name: CLASSES[name][::-1] for name in reversed(CLASSES)}
    np.testing.assert_array_equal(segmenter(image, turned, synonyms='max').labels, 2 - labels)


@pytest.mark.parametrize(
    'broken',
    [
        {'model.backbone.activation': 'gelu'},
        {'model.text_encoder.templates': ['{}']},
        {'model.data_preprocessor.bgr_to_rgb': False},
        {'model.test_cfg.stride': (224, 224)},
        {'model.backbone.readout': 'value'},
    ],
    ids=str,
)
def test_a_broken_setting_shows(clip, weights, broken, tmp_path):
    image = picture(300, 400)
    expected, scores = by_hand(clip, image, CLASSES.values())
    if 'model.backbone.activation' in broken:  # a file that does not tell
        state_dict = torch.load(weights)
        for name in ('input_resolution', 'context_length', 'vocab_size'):
            del state_dict[name]
        weights = tmp_path / 'clip.pt'
        torch.save(state_dict, weights)
    labels = inferencer(weights, **broken)(image, CLASSES, synonyms=None).labels
    with pytest.raises(AssertionError):
        assert_same_labels(labels, expected, scores)


def test_nothing_to_train_and_nothing_to_look_into(weights):
    segmenter = inferencer(weights)
    assert not [p for p in segmenter.model.parameters() if p.requires_grad]
    with pytest.raises(ESCNetError, match='no ESC blocks to look into'):
        segmenter.look_inside(picture(300, 400), CLASSES, 'sky')
    with pytest.raises(ESCNetError, match='nothing to train'):
        segmenter.model.loss(torch.zeros(1, 3, 224, 224), [])
    with pytest.raises(ESCNetError, match='shortlist drops classes'):
        inferencer(
            weights,
            **{'model.test_cfg': dict(mode='whole', shortlist=dict(top_k=5), _delete_=True)},
        )


def test_what_needs_a_checkpoint():
    with pytest.raises(ESCNetError, match='ESCNet needs a checkpoint'):
        OpenVocabInferencer(ROOT / 'configs/toyworld/escnet_toy.py')
    with pytest.raises(ESCNetError, match='CLIP would be random'):
        OpenVocabInferencer(CONFIG, cfg_options={'model.backbone.pretrained': None})


def test_esc_net_takes_each_class_once():
    cfg = toy_model_cfg()
    cfg['text_encoder']['synonyms'] = 'max'
    with pytest.raises(ESCNetError, match="synonyms='max' is defined for CLIP alone"):
        MODELS.build(cfg)
    model = MODELS.build(toy_model_cfg())
    words = Vocabulary.create(['a | b'])
    with pytest.raises(ESCNetError, match="synonyms='max' is defined for CLIP alone"):
        model.embed(words, model.text_encoder.with_options(synonyms='max'))


def test_eva_has_no_correlative_readout():
    cfg = Config.fromfile(ROOT / 'configs/escnet/escnet_eva02-b16_coco-stuff.py').model.backbone
    cfg = dict(cfg, readout='correlative', pretrained=None)
    with pytest.raises(ESCNetError, match="readout='correlative' is defined for CLIP's plain"):
        MODELS.build(cfg)
    with pytest.raises(ESCNetError, match="readout='qq' must be in"):
        OpenCLIPBackbone(model_cfg=toy_clip_cfg(), readout='qq')


@pytest.mark.parametrize(
    ('clip', 'size', 'patch', 'pretrained'),
    [
        ('ViT-B-16', 224, 16, 'openai'),
        ('ViT-L-14', 224, 14, 'openai'),
        ('ViT-L-14-336', 336, 14, 'openai'),
        ('ViT-B-32:laion2b_s34b_b79k', 224, 32, 'laion2b_s34b_b79k'),
        ('ViT-B-16:C:/clip.pt', 224, 16, 'C:/clip.pt'),
    ],
)
def test_configs_of_other_clips(clip, size, patch, pretrained):
    cfg = clip_config(clip)
    assert cfg.model.backbone.pretrained == pretrained
    assert cfg.model.backbone.stride == patch
    assert cfg.model.test_cfg.crop_size == (size, size)
    assert cfg.model.test_cfg.stride == (size // 2, size // 2)
    (resize,) = (s for s in cfg.test_dataloader.dataset.pipeline if s['type'] == 'Resize')
    assert resize == dict(type='Resize', scale=(2048, size * 3 // 2), keep_ratio=True)


@pytest.mark.parametrize(('name', 'patch'), [('b16', 16), ('l14', 14)])
def test_configs_of_the_repository(name, patch):
    cfg = Config.fromfile(ROOT / f'configs/clip/clip_vit{name}_readout.py')
    own = clip_config(f'ViT-{name[0].upper()}-{patch}')
    assert cfg.model == own.model
    assert cfg.test_dataloader == own.test_dataloader


@pytest.mark.parametrize('name', ['ViT-X-99', 'RN50', 'EVA02-B-16', 'ViT-B-16-SigLIP'])
def test_clips_without_a_plain_vision_transformer(name):
    with pytest.raises(ESCNetError, match=r'no architecture|no plain vision'):
        clip_config(name)


def test_from_clip(clip, weights, monkeypatch):
    """By a name of open_clip and a file; the architecture is the small one here."""
    monkeypatch.setattr(open_clip, 'get_model_config', lambda name: small_clip_cfg())
    segmenter = OpenVocabInferencer.from_clip(f'ViT-B-16:{weights}', 'cpu', max_words=10)
    image = picture(300, 400)
    result = segmenter(image, CLASSES, synonyms='max')
    assert_same_labels(result.labels, *by_hand(clip, image, CLASSES.values()))
    assert segmenter.vocabulary is None
    with pytest.raises(ESCNetError, match='There are no classes'):
        segmenter(image)
    with pytest.raises(ESCNetError, match='neither a file nor an open_clip tag'):
        OpenVocabInferencer.from_clip('ViT-B-16:/nowhere.pt')
