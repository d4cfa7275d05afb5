"""The look inside the trained miniature model against its parts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, toy_model_cfg
from mmengine.config import Config
from mmseg.registry import MODELS
from PIL import Image

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis import OpenVocabInferencer, Query
from mmseg_escnet.apis.inside import look_inside, whole_view
from mmseg_escnet.toyworld.scenes import scene
from mmseg_escnet.visualization import blocks_figure

CONFIG = ROOT / 'configs/toyworld/escnet_toy.py'
CHECKPOINT = ROOT / 'data/toyworld/escnet.pth'
SCENE = 1_000_000
WORDS = ['orange ring', 'wood', 'yellow heart', 'sea | water']
WINDOWS = dict(mode='windows', crop_size=(64, 80), stride=(48, 48))


def build(**test_cfg) -> OpenVocabInferencer:
    cfg = Config.fromfile(CONFIG)
    cfg.model.test_cfg = test_cfg or cfg.model.test_cfg
    return OpenVocabInferencer(cfg, CHECKPOINT, 'cpu')


@pytest.fixture(scope='module')
def seg() -> OpenVocabInferencer:
    return build()


@pytest.fixture(scope='module')
def image() -> np.ndarray:
    """(96, 96, 3), RGB, uint8."""
    return scene(0, SCENE)[0]


def normalised(image: np.ndarray) -> torch.Tensor:
    """What CLIP reads of an image, (1, 3, H, W)."""
    mean, std = (122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.3231630)
    values = (image.astype(np.float64) - mean) / std
    return torch.from_numpy(values).float().permute(2, 0, 1)[None]


def cosines(features: torch.Tensor, row: int, column: int) -> np.ndarray:
    """Cosine of each position of (C, h, w) with one, one after the other."""
    vectors = features.double().numpy()
    found = np.zeros(vectors.shape[1:])
    here = vectors[:, row, column]
    for y, x in np.ndindex(found.shape):
        there = vectors[:, y, x]
        found[y, x] = here @ there / np.sqrt((here @ here) * (there @ there))
    return found


# -- the same as the parts of the model -------------------------------------------------------


@pytest.mark.parametrize('mode', ['whole', 'windows'])
@torch.no_grad()
def test_equal_to_the_output_of_the_blocks(mode, image, seg):
    """An image that is not square, and views that are not either."""
    seg = seg if mode == 'whole' else build(**WINDOWS)
    image = image[:72]
    inside = seg.look_inside(image, WORDS, 'yellow heart', synonyms=None)

    view = normalised(image)
    if mode == 'windows':
        view = F.interpolate(view, (64, 80), mode='bilinear')
    seg.model.set_vocabulary(WORDS)
    features = seg.model.extract_feat(view, keep_blocks=True)
    logits = seg.model.encode_decode(view, [{}])
    assert inside.word == 'yellow heart'
    np.testing.assert_array_equal(inside.image, image)
    row, column = inside.point
    last = features.blocks[-1].correlation[0, 2].numpy()
    assert last[row, column] == last.max()
    assert last.shape == ((9, 12) if mode == 'whole' else (8, 10))
    close = dict(rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        inside.similarity_clip, cosines(features.image[0], row, column), **close
    )
    for t, kept in enumerate(features.blocks):
        np.testing.assert_allclose(inside.correlation[t], kept.read[0, 2], **close)
        np.testing.assert_allclose(inside.correlation[t + 1], kept.correlation[0, 2], **close)
        expected = cosines(kept.image_features[0], row, column)
        np.testing.assert_allclose(inside.similarity[t], expected, **close)
        for name in ('region', 'points', 'masks', 'valid', 'presence'):
            found, expected = getattr(inside, name)[t], getattr(kept.prompts, name)[0, 2]
            np.testing.assert_allclose(found, expected, **close, err_msg=name)
        # an object is where its mask is
        for number, mask in enumerate(inside.masks[t]):
            np.testing.assert_array_equal(inside.objects[t] == number, mask > 0)
    assert len(inside.correlation) == len(features.blocks) + 1
    assert np.abs(inside.correlation[1] - inside.correlation[0]).max() > 0.01
    # the decoder has four by four pixels for a patch; the network's output is made of them
    larger = F.interpolate(
        torch.from_numpy(inside.probability)[None, None], view.shape[-2:], mode='bilinear'
    )[0, 0]
    expected = logits.softmax(dim=1)[0, 2]
    assert (larger - expected).abs().mean() < 0.005
    assert expected.max() > 0.9


def test_several_words_take_one_pass(seg, image, monkeypatch):
    calls, extract = [], seg.model.extract_feat

    def watched(*args, **kwargs):
        calls.append(1)
        return extract(*args, **kwargs)

    monkeypatch.setattr(seg.model, 'extract_feat', watched)
    query = Query.create(WORDS[:2], background=WORDS[2:])
    several = seg.look_inside(image, query, ['wood', 'yellow heart', 'Wood'])
    assert len(calls) == 1
    assert [inside.word for inside in several] == ['wood', 'yellow heart', 'wood']
    for inside in several:
        alone = seg.look_inside(image, WORDS[:2], inside.word, background=WORDS[2:])
        for name, values in alone.arrays().items():
            np.testing.assert_array_equal(inside.arrays()[name], values)
    assert several[0].point != several[1].point


def test_results_before_and_after_are_those_of_their_words(seg, image):
    """No call changes what another one sees."""
    results = seg.stream([image] * 2, WORDS)
    first = next(results)
    seg.look_inside(image, ['red circle', 'brick'], 'brick', templates=['a {}'], synonyms='first')
    seg.text_features(['cyan moon'])
    seg.dense_features(image)
    np.testing.assert_array_equal(next(results).labels, first.labels)


def test_large_images_are_shown_smaller(seg):
    inside = build(**WINDOWS).look_inside(np.zeros((700, 2048, 3), np.uint8), WORDS, 'wood')
    assert inside.image.shape == (350, 1024, 3)
    assert inside.correlation.shape[1:] == (8, 10)


@pytest.mark.parametrize('flip', [None, 'horizontal', 'vertical'])
def test_the_view_is_the_image_itself(seg, flip):
    """Without padding, and turned back."""
    padded = torch.zeros(1, 3, 32, 64)
    image = torch.randn(1, 3, 20, 50)
    flipped = image if flip is None else image.flip(3 if flip == 'horizontal' else 2)
    padded[..., :20, :50] = flipped
    meta = dict(padding_size=(0, 14, 0, 12), flip=flip is not None, flip_direction=flip)
    assert whole_view(seg.model, padded, meta).equal(image)
    expected = F.interpolate(image, (30, 40), mode='bilinear')
    assert whole_view(seg.model, padded, meta, (30, 40)).equal(expected)
    for size in (30, (30,), (0, 40), (30.5, 40)):
        with pytest.raises(ESCNetError, match='must be \\(height, width\\) in pixels'):
            whole_view(seg.model, padded, meta, size)


# -- models without some parts ---------------------------------------------------------------------

PROMPTS = {'region', 'objects', 'points', 'masks', 'valid', 'presence'}
ALWAYS = {'word', 'image', 'point', 'correlation', 'similarity_clip', 'probability'}


@pytest.mark.parametrize(
    ('neck', 'found'),
    [
        ({}, ALWAYS | PROMPTS | {'similarity'}),
        (dict(sam_block=None), ALWAYS | {'similarity'}),
        (dict(image_guidance=False), ALWAYS),
    ],
    ids=['all', 'no SAM block', 'no image guidance'],
)
@torch.no_grad()
def test_ablations(neck, found, tmp_path):
    model = MODELS.build(toy_model_cfg(neck=neck)).eval()
    model.set_vocabulary(['cat', 'dog', 'owl'])
    view = torch.randn(1, 3, 64, 80)
    for _ in range(20):  # until the peak moves
        for block in model.neck.blocks[:-1]:
            torch.nn.init.normal_(block.correlation_update.weight, std=10)
        picture = np.full((64, 80, 3), 90, np.uint8)
        (inside,) = look_inside(model, view, picture, model.text_features(), {'owl': 2})
        before, after = inside.correlation[0], inside.correlation[-1]
        assert after[inside.point] == after.max()
        if before[inside.point] < before.max():
            break
    else:
        pytest.fail('the peak never moves')
    assert set(inside.arrays()) == found
    blocks = model.extract_feat(view, keep_blocks=True).blocks
    for t, kept in enumerate(blocks):
        if kept.image_features is not None:
            expected = cosines(kept.image_features[0], *inside.point)
            np.testing.assert_allclose(inside.similarity[t], expected, atol=1e-5)
    inside.save(tmp_path / 'a.png')
    assert np.asarray(Image.open(tmp_path / 'a.png').convert('L')).std() > 5


# -- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('word', 'options', 'message'),
    [
        ('yelow heart', {}, r"no class 'yelow heart': did you mean 'yellow heart'\?"),
        ('other', dict(background=['sky', 'sand']), "no class 'other': .* 'orange ring', 'wood'"),
        ('other', dict(background=0.5), "no class 'other'"),
    ],
)
def test_words_outside_the_query(seg, word, options, message):
    """Before the image is read."""
    with pytest.raises(ESCNetError, match=message):
        seg.look_inside('nowhere.png', WORDS, word, **options)


def test_images_that_are_refused(seg, image):
    for look in (lambda im: seg.look_inside(im, WORDS, 'wood'), seg.dense_features):
        with pytest.raises(ESCNetError, match=r'Image nowhere\.png cannot be read'):
            look('nowhere.png')
        with pytest.raises(ESCNetError, match='The image is a list'):
            look([image])


# -- files -----------------------------------------------------------------------------------------


def test_files(seg, image, tmp_path):
    inside = seg.look_inside(image, WORDS, 'water')
    inside.save(tmp_path / 'deeper/a.png', arrays=tmp_path / 'a.npz')
    inside.save(tmp_path / 'a.SVG')
    assert Image.open(tmp_path / 'deeper/a.png').width > 500
    assert b'<svg' in (tmp_path / 'a.SVG').read_bytes()
    with np.load(tmp_path / 'a.npz') as stored:
        assert str(stored['word']) == 'sea | water'
        assert set(stored) == set(inside.arrays())
        for name, values in inside.arrays().items():
            np.testing.assert_array_equal(stored[name], values)
        assert len(blocks_figure(stored).axes) == len(inside.figure().axes)
    for wrong in (dict(path='a.jpg'), dict(path='a.png', arrays='a.npy')):
        with pytest.raises(ESCNetError, match=r'must end in \.'):
            inside.save(**wrong)
    (tmp_path / 'file').touch()
    with pytest.raises(ESCNetError, match='cannot be written'):
        inside.save(tmp_path / 'file/a.png')


# -- dense features --------------------------------------------------------------------------------


@pytest.mark.parametrize('mode', ['whole', 'windows'])
def test_dense_features_and_texts_give_the_first_correlation(mode, image, seg):
    seg = seg if mode == 'whole' else build(**WINDOWS)
    features, text = seg.dense_features(image), seg.text_features(WORDS)
    assert features.dtype == text.dtype == np.float32
    grid = (12, 12) if mode == 'whole' else (8, 10)
    assert (features.shape, text.shape) == ((128, *grid), (4, 128))
    np.testing.assert_allclose(np.linalg.norm(features, axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, rtol=1e-5)
    cosine = np.tensordot(text, features, 1)
    for values, inside in zip(cosine, seg.look_inside(image, WORDS, WORDS), strict=True):
        np.testing.assert_allclose(values, inside.correlation[0], atol=1e-6)
    assert cosine.max() - cosine.min() > 0.3


def test_options_of_dense_and_text_features(seg, image):
    assert seg.dense_features(image, size=(160, 64)).shape == (128, 20, 8)
    text = seg.text_features(WORDS)
    query = Query.create(WORDS[:1], background=WORDS[1:])
    np.testing.assert_array_equal(seg.text_features(query), text)
    first = seg.text_features(WORDS, synonyms='first')
    np.testing.assert_array_equal(first[:3], text[:3])
    assert np.abs(first[3] - text[3]).max() > 0.001
    assert np.abs(seg.text_features(WORDS, templates=['{}']) - text).max() > 0.01
