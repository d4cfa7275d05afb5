"""The page of tools/web_demo.py: its functions, and requests as a browser makes them."""

import importlib
import json
import os
import re
import socket
import subprocess
import sys
from urllib.request import Request, urlopen

import cv2
import numpy as np
import pytest
from conftest import ROOT, load_tool
from PIL import Image

from mmseg_escnet import ESCNetError, web
from mmseg_escnet.apis import OpenVocabInferencer, Query, SegmentationResult
from mmseg_escnet.colors import CLASS_COLORS, OPACITY
from mmseg_escnet.models import clip_weights
from mmseg_escnet.toyworld.model import toy_model
from mmseg_escnet.toyworld.scenes import example_scenes, scene
from mmseg_escnet.toyworld.vocabulary import COLORS, SHAPES, SYNONYMS, TEXTURES
from mmseg_escnet.web import (
    MAX_FILE_BYTES,
    PageModel,
    annotate,
    build_page,
    scores_at,
    segment,
    serve,
)

SCENE = scene(0, 1_000_008)[0][:72]  # not square
WORDS = 'red heart, orange star\ncyan star, grass | lawn, fabric'
CLASSES = ['red heart', 'orange star', 'cyan star', 'grass | lawn', 'fabric']


@pytest.fixture(scope='module')
def seg():
    return OpenVocabInferencer(*toy_model(), 'cpu', max_pixels=300_000, max_words=50)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / 'scene.png'
    Image.fromarray(SCENE).save(path)
    return path


def some_result(labels, names, **options):
    image = np.random.default_rng(0).integers(0, 255, (*labels.shape, 3), np.uint8)
    scores = np.full(labels.shape, 0.5, np.float32)
    return SegmentationResult(labels, scores, Query.create(names, **options), image)


@pytest.mark.parametrize(
    ('typed', 'background'),
    [('', None), (' other ', 'other'), ('wood, brick', ['wood', 'brick']), ('0.9', 0.9)],
)
def test_an_answer_is_that_of_the_inferencer(seg, picture, typed, background):
    result = segment(seg, picture, WORDS, typed)
    expected = seg(SCENE, CLASSES, background=background)
    assert result.query == expected.query
    np.testing.assert_array_equal(result.labels, expected.labels)
    np.testing.assert_array_equal(result.image, SCENE)
    for x, y in ((5, 5), (60, 50), (95, 71)):
        scores = scores_at(result, x, y)
        assert tuple(scores) == expected.classes
        for i, score in enumerate(scores.values()):
            assert score == pytest.approx(expected.class_scores(i)[y, x], abs=1e-6)


def test_masks_cover_the_picture_once(seg, picture):
    result = segment(seg, picture, WORDS, 'wood, brick')
    ids = [result.classes.index(name) for name in result.areas]
    shown = annotate(result, ids)
    image, annotations = shown['value']
    inside = cv2.morphologyEx(result.labels, cv2.MORPH_GRADIENT, np.ones((3, 3))) == 0
    np.testing.assert_array_equal(image[inside], SCENE[inside])
    assert 100 < (image != SCENE).any(axis=-1).sum() <= (~inside).sum(), 'outlines'
    assert np.sum([mask for mask, _ in annotations], axis=0).tolist() == np.ones((72, 96)).tolist()
    for i, (mask, label) in zip(ids, annotations, strict=True):
        np.testing.assert_array_equal(mask, result.labels == i)
        name, share = label.rsplit(' ', 1)
        assert name == result.classes[i]
        assert float(share[:-1]) == pytest.approx(100 * mask.mean(), abs=0.05)
        red, green, blue = result.palette[i]
        assert shown['color_map'][label] == f'#{red:02x}{green:02x}{blue:02x}'
    assert [label for _, label in annotate(result, ids[1:2])['value'][1]] == [annotations[1][1]]
    assert annotate(result, [])['value'][1] == []


def test_similar_colours():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
    result = some_result(labels, ['a | b', 'a | c', 'd | e'], background=['sky'])
    alike = (CLASS_COLORS[3],) * 4
    object.__setattr__(result.query.vocabulary, 'palette', alike)
    colors = annotate(result, range(4))['color_map']
    assert list(colors) == ['a | b 25.0%', 'a | c 25.0%', 'd | e 25.0%', 'other 25.0%']
    first, *_, last = colors.values()
    own = '#{:02x}{:02x}{:02x}'.format(*CLASS_COLORS[3])
    assert (first, last) == (own, '#808080')  # the largest keeps its own, the rest is grey
    assert len(set(colors.values())) == 4


def test_a_large_picture_is_shown_smaller():
    labels = np.arange(100 * 3210).reshape(100, 3210).astype(np.uint16) % 300
    image, annotations = annotate(some_result(labels, [f'w{i}' for i in range(300)]), [7])['value']
    assert image.shape == (34, 1070, 3)
    ((mask, label),) = annotations
    assert label == 'w7 0.3%'
    np.testing.assert_array_equal(mask, (labels == 7)[::3, ::3])


def test_what_cannot_be_used(seg, picture, tmp_path):
    many = '\n'.join(f'w{i}' for i in range(100_000))
    for words, background, why in [
        ('', '', 'no classes'),
        (many, '', 'at most 50'),
        ('a,a', '', "'a'"),
        ('a', '1.5', 'above 0'),
        ('a, other', '0.5', 'other'),
    ]:
        with pytest.raises(ESCNetError, match=why):
            segment(seg, picture, words, background)
    with pytest.raises(ESCNetError, match='no picture'):
        segment(seg, None, WORDS)
    Image.new('1', (600, 501)).save(tmp_path / 'large.png')
    with pytest.raises(ESCNetError, match=r'^The image has 600x501 pixels'):
        segment(seg, tmp_path / 'large.png', WORDS)


def test_the_examples_are_of_words_that_the_model_knows(seg):
    known = {*COLORS, *SHAPES, *TEXTURES, *SYNONYMS.values()}
    for image, words in example_scenes():
        assert {part for part in words.replace(',', ' ').split() if part != '|'} <= known
        result = seg(image[::5, ::5], [word.strip() for word in words.split(',')])
        assert len(result.areas) == len(result.classes)
        np.testing.assert_array_equal(seg(image, result.query).labels[2::5, 2::5], result.labels)


@pytest.fixture(scope='module')
def uploads(tmp_path_factory):
    """The folder where gradio puts what is uploaded."""
    return tmp_path_factory.mktemp('uploads')


@pytest.fixture(scope='module')
def url(uploads):
    """URL of the page, served by the tool."""
    pytest.importorskip('gradio', reason='the extra `web` is not installed')
    variables = dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', GRADIO_TEMP_DIR=str(uploads))
    command = [sys.executable, ROOT / 'tools/web_demo.py', '--device', 'cpu']
    with subprocess.Popen(
        command, env=os.environ | variables, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield next(
                re.search(r'at (http\S+)', line)[1] for line in process.stdout if 'http' in line
            )
        finally:
            process.kill()


def ask(url, function, data, session='test', **event_data):
    """What the page in a browser does; returns what the function gives back, or the error."""
    number = ['answer', 'choose', 'read_scores'].index(function)
    body = dict(fn_index=number, data=data, session_hash=session, event_data=event_data or None)
    headers = {'Content-Type': 'application/json'}
    join = Request(f'{url}gradio_api/queue/join', json.dumps(body).encode(), headers)
    urlopen(join, timeout=60).close()
    with urlopen(f'{url}gradio_api/queue/data?session_hash={session}', timeout=60) as stream:
        events = [json.loads(line[5:]) for line in stream if line.startswith(b'data:')]
    (output,) = [event['output'] for event in events if event['msg'] == 'process_completed']
    return output.get('data') or output['error']


def upload(folder, content):
    """Put a picture where gradio puts what is uploaded; returns what the page sends of it."""
    path = folder / f'{len(content)}.png'
    path.write_bytes(content)
    return dict(path=str(path), meta=dict(_type='gradio.FileData'))


def test_the_page_answers(url, uploads, seg, picture):
    result = seg(SCENE, CLASSES)
    ids = [result.classes.index(name) for name in result.areas]
    file = upload(uploads, picture.read_bytes())
    _, shown, notes, choices, _ = ask(url, 'answer', [file, WORDS, '', 'Toy world'])
    assert choices['value'] == ids
    masks = shown['value']['annotations']
    for i, annotation in zip(ids, masks, strict=True):
        mask = np.array(Image.open(annotation['image']['path']))
        np.testing.assert_array_equal(mask[..., 3] > 0, result.labels == i)
        color = '#{:02x}{:02x}{:02x}'.format(*mask[result.labels == i][0, :3])
        assert color == shown['color_map'][annotation['label']]
    (only,) = ask(url, 'choose', [None, ids[1:2]])
    ((mask, label),) = [(each['image'], each['label']) for each in only['annotations']]
    assert (mask['path'], label) == (masks[1]['image']['path'], masks[1]['label'])  # by content
    (scores,) = ask(url, 'read_scores', [file, None], index=[60, 50], value=None)
    best = result.labels[50, 60]
    assert scores['label'] == result.classes[best]
    assert scores['confidences'][0]['confidence'] == pytest.approx(result.scores[50, 60], abs=1e-6)
    other = upload(uploads, picture.read_bytes() + b' ')
    assert not notes, 'all words were found'
    typed = [f'{WORDS}, taxi, wet road | <street>', '0.01', 'Toy world']  # none scores so low
    _, _, notes, *_ = ask(url, 'answer', [file, *typed])
    absent, note = notes.split('<br>')
    assert absent == 'Not found: taxi, wet road | &lt;street&gt;', 'other was not asked for'
    assert note.startswith('background=0.01 has no effect, because the best of 7 words')
    for session, asked in (('test', other), ('another', file)):
        answer = ask(url, 'read_scores', [asked, None], session, index=[60, 50], value=None)
        assert 'press Segment' in answer


def test_several_models(seg, picture, monkeypatch):
    """Visitors choose one; what is asked goes to that one."""
    gradio = pytest.importorskip('gradio', reason='the extra `web` is not installed')
    asked = []

    def answering(name):
        class Segmenter:
            max_words = 50

            def __call__(self, image, query):
                asked.append(name)
                return seg(image, query)

        return Segmenter()

    models = [
        PageModel('first', answering('first'), '*one*', [(SCENE, 'wood, brick')]),
        PageModel('second', answering('second'), '*two*'),
    ]
    page = build_page(models)
    labels = {block.label: block for block in page.blocks.values() if hasattr(block, 'label')}
    assert labels['Model'].visible
    assert [value for _, value in labels['Model'].choices] == ['first', 'second']
    notes = [b.value for b in page.blocks.values() if isinstance(b, gradio.Markdown)]
    assert '*one*' in notes
    answer = page.fns[0].fn
    monkeypatch.setattr(labels['Result'], 'GRADIO_CACHE', str(picture.parent), raising=False)
    for name in ('second', 'first'):
        answer(dict(path=str(picture)), WORDS, '', name)
    assert asked == ['second', 'first']
    only = build_page(models[:1])
    labels = {block.label: block for block in only.blocks.values() if hasattr(block, 'label')}
    assert not labels['Model'].visible


PAGE = """
import os, sys, urllib.request
from mmseg_escnet.web import PageModel, build_page, serve
before = dict(os.environ)
page = build_page([PageModel('none', None)])
url = serve(page, port=None)
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
assert b'<html' in direct.open(url).read()
part = b'Content-Disposition: form-data; name="files"; filename="a.png"'
body = b'--x\\r\\n' + part + b'\\r\\n\\r\\nabc\\r\\n--x--'
headers = {'Content-Type': 'multipart/form-data; boundary=x'}
request = urllib.request.Request(url + 'gradio_api/upload', body, headers)
print('uploaded', direct.open(request).read().decode())
changed = {name for name in os.environ if os.environ[name] != before.get(name)}
assert 'no_proxy' not in changed and 'NO_PROXY' not in changed, changed
print('folder', os.environ['GRADIO_TEMP_DIR'])
page.close()
"""


@pytest.mark.parametrize(
    'proxies',
    [
        {},
        dict(http_proxy='http://127.0.0.1:9'),
        dict(HTTP_PROXY='http://127.0.0.1:9', HTTPS_PROXY='http://127.0.0.1:9', NO_PROXY='a.org'),
        dict(all_proxy='socks5://127.0.0.1:9', no_proxy='example.org'),
    ],
    ids=['none', 'http', 'upper case', 'socks'],
)
def test_behind_a_proxy_and_as_second_user(tmp_path, proxies):
    """The proxy does not answer, and the folder that gradio shares is not ours."""
    pytest.importorskip('gradio', reason='the extra `web` is not installed')
    (tmp_path / 'gradio').touch()  # not even root can write into it
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith('_proxy') and name != 'GRADIO_TEMP_DIR'
    }
    environment = inherited | dict(PYTHONPATH=str(ROOT), TMPDIR=str(tmp_path)) | proxies
    done = subprocess.run(
        [sys.executable, '-c', PAGE], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (folder,) = re.findall(r'folder (.*)', done.stdout)
    assert os.path.dirname(folder) == str(tmp_path)
    assert f'uploaded ["{folder}/' in done.stdout
    assert not os.path.exists(folder), 'it is removed in the end'


def test_the_page_shows_errors(url, uploads, picture):
    file, typed = upload(uploads, picture.read_bytes()), [WORDS, '', 'Toy world']
    for data, why in [
        ([file, '<b>, <b>', '', 'Toy world'], "'&lt;b&gt;'"),
        ([None, *typed], 'no picture'),
        ([upload(uploads, b'<script>'), *typed], 'The image cannot be decoded'),
        (
            [dict(path=str(ROOT / 'docs/images/memory.png')), WORDS, '', 'Toy world'],
            'not uploaded here',
        ),
    ]:
        assert why in ask(url, 'answer', data)
    marked = dict(path=str(ROOT / 'docs/images/memory.png'), meta=dict(_type='gradio.FileData'))
    assert ask(url, 'answer', [marked, *typed]) is None  # gradio itself does not let it pass


def test_keys_and_colours_of_the_page(url):
    """Ctrl+Enter presses the button, and masks are as strong as in overlays."""
    with urlopen(f'{url}config', timeout=60) as response:
        config = json.load(response)
    assert "getElementById('segment').click()" in config['head']
    ids = {part['props'].get('elem_id') for part in config['components']}
    assert 'segment' in ids
    assert f'opacity: {OPACITY}' in config['css']
    shows = [each for each in config['dependencies'] if 'scrollIntoView' in str(each['js'])]
    after = {each['trigger_after'] for each in shows if each['trigger_only_on_success']}
    answers = {each['id'] for each in config['dependencies'] if len(each['outputs']) == 5}
    assert after == answers, 'Segment, and the examples'
    assert len(after) == 2


def test_it_is_served_on_this_machine_only(url):
    host, port = re.fullmatch(r'http://(.*):(\d+)/', url).groups()
    assert host == '127.0.0.1'
    with socket.socket() as other:  # another address of the same machine
        assert other.connect_ex(('127.0.0.2', int(port))) != 0


@pytest.mark.parametrize(
    ('host', 'port', 'why'),
    [
        ('127.0.0.1', 99_999, 'port 99999'),
        ('203.0.113.7', None, 'port 7860'),  # nobody's: for documentation
        ('no such name', 7860, 'no such name'),
    ],
)
def test_addresses_that_are_not_available(host, port, why):
    with pytest.raises(ESCNetError, match=f'cannot be served at .*{why}.*--host or --port'):
        serve(None, host=host, port=port)


def test_a_port_in_use():
    with (
        socket.create_server(('127.0.0.1', 0)) as taken,
        pytest.raises(ESCNetError, match='in use'),
    ):
        serve(None, port=taken.getsockname()[1])


def test_without_gradio(monkeypatch):
    monkeypatch.setenv('GRADIO_ANALYTICS_ENABLED', 'True')
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(ESCNetError, match=r'gradio is missing: pip install .*\[web\]'):
        build_page([PageModel('none', None)])
    assert os.environ['GRADIO_ANALYTICS_ENABLED'] == 'False'  # before gradio is imported


def test_what_the_documentation_says(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    defaults = importlib.import_module('web_demo').parse_args([])
    section = (ROOT / 'docs/inference.md').read_text().split('## In the browser')[1].split('## ')[0]
    assert f'{defaults.max_pixels // 1_000_000} million pixels' in section
    assert f'{MAX_FILE_BYTES >> 20} MiB' in section
    assert f'lists {defaults.max_words} words' in section
    assert f'({defaults.host})' in section
    options = {option.replace('-', '_') for option in re.findall(r'`--([a-z-]+)`', section)}
    assert {'host', 'port', 'max_pixels'} < options <= {*vars(defaults), 'background'}


@pytest.mark.parametrize('downloaded', [False, True])
def test_clip_beside_the_toy_model(monkeypatch, downloaded):
    """Offered when its weights are on this machine; otherwise the page says how to get it."""
    tool, offered = load_tool('tools/web_demo.py'), []
    monkeypatch.setattr(clip_weights, 'is_downloaded', lambda *_: downloaded)
    monkeypatch.setattr(OpenVocabInferencer, '__init__', lambda *_, **__: None)

    def stop(models):
        offered.extend(models)
        raise ESCNetError('stop here')

    monkeypatch.setattr(web, 'build_page', stop)
    with pytest.raises(ESCNetError, match='stop here'):
        tool.main(['--device', 'cpu'])
    names = ['Toy world', 'CLIP ViT-B-16']
    assert [model.name for model in offered] == names[: 1 + downloaded]
    assert ('--clip ViT-B-16' in offered[0].note) == (not downloaded)
    assert offered[0].examples
    offered.clear()
    with pytest.raises(ESCNetError, match='stop here'):
        tool.main(['--device', 'cpu', '--clip', 'ViT-B-32'])
    assert [model.name for model in offered] == ['ViT-B-32']
