"""What the page computes, without a browser."""

import base64
import configparser
import gc
import io
import json
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis import OpenVocabInferencer, Query, SegmentationResult
from mmseg_escnet.toyworld.model import toy_model
from mmseg_escnet.toyworld.scenes import scene
from mmseg_escnet.toyworld.vocabulary import COLORS, SHAPES, SYNONYMS, TEXTURES
from mmseg_escnet.visualization.colors import LEAST_DISTANCE, _lab
from mmseg_escnet.web.desk import Desk
from mmseg_escnet.web.form import choose_background, split_words, toy_examples
from mmseg_escnet.web.wire import picture_message, result_message, scores_message

SCENE = scene(0, 1_000_003)[0]
WORDS = 'orange star, orange heart\ncyan circle, tiles'


@pytest.fixture(scope='module')
def seg():
    return OpenVocabInferencer(*toy_model(), 'cpu')


@pytest.fixture
def desk(seg):
    return Desk(seg, max_pixels=100_000, max_words=50)


def unpack(text: str, kind, height: int, width: int) -> np.ndarray:
    content = zlib.decompress(base64.b64decode(text))
    return np.frombuffer(content, kind).reshape(height, width)


def decode(url: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.partition(',')[2]))))


def encode(image: Image.Image, kind: str = 'PNG', **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def some_result(labels: np.ndarray, names: list[str]) -> SegmentationResult:
    rng = np.random.default_rng(0)
    return SegmentationResult(
        labels=labels,
        scores=rng.random(labels.shape, np.float32),
        query=Query.create(names),
        image=rng.integers(0, 255, (*labels.shape, 3), np.uint8),
    )


# --------------------------------------------------------------------------------------------------
# The form
# --------------------------------------------------------------------------------------------------


def test_words():
    words = ['taxi', 'wet road', 'sofa | couch', 'sea']
    assert split_words(' taxi,wet road\n\r\nsofa | couch ,, sea,') == words
    for empty in ('', ' \n, ,'):
        with pytest.raises(ESCNetError, match='no words'):
            split_words(empty)
    with pytest.raises(ESCNetError, match='1000001 characters'):
        split_words('a' * 1_000_001)


def test_backgrounds():
    assert choose_background('none', 'sky', 0.3) is None
    assert choose_background('score', 'sky', 0.3) == 0.3
    assert choose_background('words', 'sky, wall', 0.3) == ['sky', 'wall']
    assert choose_background('words', ' ', 0.3) == 'other'


def test_the_examples_are_of_words_that_the_model_knows(seg):
    known = {*COLORS, *SHAPES, *TEXTURES, *SYNONYMS.values()}
    examples = toy_examples()
    assert len(examples) >= 3
    for example in examples:
        assert {part for part in example.words.replace(',', ' ').split() if part != '|'} <= known
        result = seg(example.image, split_words(example.words))
        assert len(result.areas) == len(result.classes)


# --------------------------------------------------------------------------------------------------
# What is sent to the viewer
# --------------------------------------------------------------------------------------------------


def test_a_small_result_arrives_as_it_is(seg):
    result = seg(SCENE, split_words(WORDS))
    sent = json.loads(json.dumps(result_message(result, 'a key')))
    assert (sent['kind'], sent['key']) == ('result', 'a key')
    assert (sent['width'], sent['height']) == (96, 96)
    np.testing.assert_array_equal(unpack(sent['labels'], '<u2', 96, 96), result.labels)
    scores = unpack(sent['scores'], np.uint8, 96, 96) / 255
    np.testing.assert_allclose(scores, result.scores, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(decode(sent['picture']), SCENE)
    assert [each['name'] for each in sent['classes']] == list(result.areas)
    for each in sent['classes']:
        assert result.classes[each['id']] == each['name']
        assert tuple(each['color']) == result.palette[each['id']]
        assert each['share'] == pytest.approx((result.labels == each['id']).mean())


def test_a_large_result_of_many_classes_arrives_smaller():
    names = [f'w{i}' for i in range(300)]
    labels = np.arange(100 * 3210).reshape(100, 3210).astype(np.uint16) % 298 + 2
    result = some_result(labels, names)
    sent = result_message(result, '')
    assert (sent['width'], sent['height']) == (1600, 50)
    rows, columns = np.arange(50) * 100 // 50, np.arange(1600) * 3210 // 1600
    shown = unpack(sent['labels'], '<u2', 50, 1600)
    np.testing.assert_array_equal(shown, labels[rows][:, columns])
    assert decode(sent['picture']).shape == (50, 1600, 3)
    assert len(sent['classes']) == 300
    assert {each['name'] for each in sent['classes'] if each['share'] == 0} == {'w0', 'w1'}
    assert [each['name'] for each in sent['classes'][-2:]] == ['w0', 'w1']


def test_pixels_without_a_class_have_no_entry():
    labels = np.array([[0, 255], [255, 255]], np.uint8)
    sent = result_message(some_result(labels, ['a']), '')
    assert [each['share'] for each in sent['classes']] == [0.25]
    assert unpack(sent['labels'], '<u2', 2, 2).tolist() == labels.tolist()


def test_a_score_map(seg):
    result = seg(SCENE, split_words(WORDS))
    sent = json.loads(json.dumps(scores_message(result, 'a key', 1)))
    expected = result.class_scores('orange heart')
    assert (sent['key'], sent['class_id']) == ('a key', 1)
    assert sent['highest'] == pytest.approx(expected.max())
    values = unpack(sent['map'], np.uint8, 96, 96) / 255 * sent['highest']
    np.testing.assert_allclose(values, expected, atol=0.5 / 255 + 1e-6)
    assert len(base64.b64decode(sent['colors'])) == 3 * 256


def test_a_large_picture_is_sent_smaller():
    sent = picture_message(np.zeros((4000, 1000, 3), np.uint8))
    assert (sent['width'], sent['height']) == (400, 1600)
    assert sent['picture'].startswith('data:image/jpeg;base64,')
    assert decode(sent['picture']).shape == (1600, 400, 3)


# --------------------------------------------------------------------------------------------------
# What the buttons do
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('content', 'why'),
    [
        (b'', 'it is empty'),
        (b'<script>alert(1)</script>', 'no image'),
        (encode(Image.fromarray(SCENE))[:-200], 'damaged'),
        (encode(Image.new('1', (20_000, 20_000))), 'more than 178956970 pixels'),
        (encode(Image.new('L', (400, 300))), '400x300 pixels'),
    ],
)
def test_unusable_pictures(desk, content, why):
    with pytest.raises(ESCNetError, match=f'^The picture.*{why}'):
        desk.read(content)


def test_pictures_of_other_kinds(desk):
    turned = Image.Exif()
    turned[274] = 6  # to be turned clockwise by a quarter
    content = encode(Image.fromarray(SCENE[:40]), exif=turned)
    np.testing.assert_array_equal(desk.read(content), np.rot90(SCENE[:40], -1))
    deep = np.arange(0, 6000, dtype=np.uint16).reshape(60, 100) * 10
    pixels = desk.read(encode(Image.fromarray(deep)))
    np.testing.assert_array_equal(pixels, (deep >> 8).astype(np.uint8)[..., None].repeat(3, 2))


def test_an_answer_and_its_files(desk, seg):
    answer = desk.segment(SCENE, WORDS, 'words', 'wood, brick')
    asked = dict(classes=split_words(WORDS), background=['wood', 'brick'])
    expected = seg(SCENE, **asked)
    np.testing.assert_array_equal(answer.result.labels, expected.labels)
    assert answer.words == tuple(asked['classes'])
    assert answer.result.classes == (*answer.words, 'other')
    assert answer.message()['key'] == answer.key != desk.segment(SCENE, WORDS).key
    paths = [Path(path) for path in answer.save()]
    assert [path.name for path in paths] == ['labels.png', 'labels.json', 'overlay.png']
    np.testing.assert_array_equal(np.array(Image.open(paths[0])), expected.labels)
    record = json.loads(paths[1].read_text())
    assert record['names'] == list(answer.result.classes)
    assert record['palette'] == [list(color) for color in answer.result.palette]
    del answer
    gc.collect()
    assert not paths[0].parent.exists()


def test_a_score_as_background(desk):
    lower = desk.segment(SCENE, WORDS, 'score', '', 0.99).result
    assert lower.classes[-1] == 'other'
    assert (lower.labels == 4).sum() == (lower.scores < np.float32(0.99)).sum() > 0


def test_colours_can_be_told_apart(desk, seg, monkeypatch):
    result = seg(SCENE, split_words(WORDS))
    vocabulary = replace(result.query.vocabulary, palette=((200, 30, 30),) * 4)
    alike = replace(result, query=replace(result.query, vocabulary=vocabulary))
    monkeypatch.setattr(desk, 'segmenter', lambda *_: alike)
    found = desk.segment(SCENE, WORDS).result
    assert found.palette[result.classes.index('tiles')] == (
        200,
        30,
        30,
    )  # the largest keeps its own
    places = _lab(np.array(found.palette, np.uint8))
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)[~np.eye(4, dtype=bool)]
    assert distances.min() >= LEAST_DISTANCE
    assert found.query.names == result.query.names


def test_what_cannot_be_asked(desk):
    many = '\n'.join(f'w{i}' for i in range(100_000))
    for words, why in [
        ('', 'no words'),
        (many, 'at most 50'),
        ('a\0b', 'control'),
        ('a,a', 'twice'),
    ]:
        with pytest.raises(ESCNetError, match=why):
            desk.segment(SCENE, words)
    with pytest.raises(ESCNetError, match='no picture'):
        desk.segment(None, WORDS)
    with pytest.raises(ESCNetError, match='no result yet'):
        desk.class_scores(None, 0)
    with pytest.raises(ESCNetError, match='no result yet'):
        desk.look_inside(None, 'tiles')
    answer = desk.segment(SCENE, WORDS)
    for class_id in (4, -1, '0', None, True):
        with pytest.raises(ESCNetError, match='no such class'):
            desk.class_scores(answer, class_id)
    with pytest.raises(ESCNetError, match='no word'):
        desk.look_inside(answer, None)


# --------------------------------------------------------------------------------------------------
# What is installed
# --------------------------------------------------------------------------------------------------


def test_without_gradio_it_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmseg_escnet.web.page', raising=False)
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(ESCNetError, match=r'gradio is not installed: pip install .*\[web\]'):
        import mmseg_escnet.web.page  # noqa: F401


def test_the_extra_is_pinned():
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg', encoding='utf-8')
    lines = (ROOT / 'requirements.txt').read_text(encoding='utf-8').splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith('#')]
    pinned = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}
    wanted = config['options.extras_require']['web'].split('\n')
    wanted = [Requirement(line) for line in wanted if line.strip()]
    assert [each.name for each in wanted] == ['gradio']
    for each in wanted:
        assert each.specifier.contains(pinned[canonicalize_name(each.name)])


def test_the_assets_travel_with_the_package():
    assets = {path.suffix for path in (ROOT / 'mmseg_escnet/web').iterdir() if path.is_file()}
    for suffix in assets - {'.py'}:
        assert f'**/*{suffix}' in (ROOT / 'setup.cfg').read_text()
        assert f'*{suffix}' in (ROOT / 'MANIFEST.in').read_text()
