"""tools/web_demo.py as people use it: in a browser, where there is one."""

import importlib
import json
import os
import queue
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis import OpenVocabInferencer
from mmseg_escnet.toyworld.model import toy_model
from mmseg_escnet.toyworld.scenes import scene
from mmseg_escnet.web.form import split_words, toy_examples

pytest.importorskip('gradio', reason='the extra `web` is not installed')

SCENE = scene(0, 1_000_008)[0][:72]  # not square
WORDS = 'red heart, orange star, cyan star, grass | lawn, fabric'
MARKUP = [
    '<script>window.hacked = 1</script>',
    '"><img src=x onerror=hacked=1>',
    '${window.hacked = 1}',
    '{{hacked = 1}}',
    "'; window.hacked = 1; '",
    '<b>bold</b> & &lt;i&gt;',
    'שלום \u202eabc',
    '😀 smile',
    'international representation ' * 5,
]
SECONDS = 60


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    """URL of the page, served by the tool."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, ROOT / 'tools/web_demo.py', '--port', str(port), '--device', 'cpu'],
        env=os.environ
        | {
            'PYTHONPATH': str(ROOT),
            'OMP_NUM_THREADS': '1',
            'TMPDIR': str(tmp_path_factory.mktemp('files')),
            'GRADIO_ANALYTICS_ENABLED': 'True',  # the tool knows better
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = queue.Queue()
    threading.Thread(target=lambda: [*map(lines.put, process.stdout)], daemon=True).start()
    said = ''
    try:
        while f'http://127.0.0.1:{port}/' not in said:
            said += lines.get(timeout=180)
        yield f'http://127.0.0.1:{port}/'
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope='module')
def browser():
    """A headless Chromium that speaks to nobody but this machine."""
    program = shutil.which('chromium') or shutil.which('chromium-browser')
    program = program or shutil.which('google-chrome')
    driver = shutil.which('chromedriver')
    if program is None or driver is None:
        pytest.skip('no browser here: install Chromium and its driver (chromium, chromium-driver)')
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        *('headless=new', 'no-sandbox', 'disable-gpu', 'disable-dev-shm-usage'),
        *('window-size=1400,1200', 'host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1'),
    ):
        options.add_argument(f'--{argument}')
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL'})
    with webdriver.Chrome(options=options, service=Service(driver)) as chrome:
        chrome.set_page_load_timeout(SECONDS)
        chrome.set_script_timeout(SECONDS)
        yield chrome


@pytest.fixture(scope='module')
def seg():
    return OpenVocabInferencer(*toy_model(), 'cpu')


class Page:
    """The page, by what is on it."""

    def __init__(self, browser, url):
        self.browser = browser
        browser.get_log('performance')
        browser.get(url)
        self.wait(lambda: self.names() == split_words(toy_examples()[0].words))

    def wait(self, condition):
        WebDriverWait(self.browser, SECONDS, 0.05).until(lambda _: condition())

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        (element,) = self.all(selector)
        return element

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def names(self):
        """Those of the legend, in the order that was asked for."""
        script = """return [...document.querySelectorAll('.viewer-legend li')]
            .sort((a, b) => a.dataset.id - b.dataset.id)
            .map((row) => row.querySelector('.viewer-name').textContent)"""
        return self.run(script)

    def notice(self):
        return self.run("return document.querySelector('#notice .notice').textContent")

    def upload(self, path):
        self.one('#upload input[type=file]').send_keys(str(path))

    def type(self, words):
        script = """const box = document.querySelector('#words textarea');
            box.value = arguments[0];
            box.dispatchEvent(new Event('input', {bubbles: true}))"""
        self.run(script, words)

    def segment(self):
        self.one('#segment').click()

    def hover(self, x, y, height, width):
        """Move to a pixel of an image; returns the name and the score that are shown there."""
        box = self.one('.viewer-stage').rect
        right = (x + 0.5) / width * box['width'] - box['width'] / 2
        down = (y + 0.5) / height * box['height'] - box['height'] / 2
        stage = self.one('.viewer-stage')
        ActionChains(self.browser, duration=0).move_to_element_with_offset(
            stage, round(right), round(down)
        ).perform()
        texts = self.run(
            "return ['name', 'score'].map(n => document.querySelector('.viewer-tip-' + n))"
            '.map(e => e.textContent)'
        )
        assert self.one('.viewer-tip').is_displayed()
        return texts[0], float(texts[1])

    def painted(self, x, y):
        """R, G, B, A of the colour over a pixel of an image that is drawn 5 times as large."""
        script = """return [...document.querySelector('.viewer-fill').getContext('2d')
            .getImageData(...arguments, 1, 1).data]"""
        return self.run(script, 5 * x + 2, 5 * y + 2)

    def requests(self):
        """URLs that were asked for since the last call."""
        entries = (json.loads(entry['message']) for entry in self.browser.get_log('performance'))
        messages = [entry['message'] for entry in entries]
        kinds = ('Network.requestWillBeSent', 'Network.webSocketCreated')
        sent = [message['params'] for message in messages if message['method'] in kinds]
        return [one['request']['url'] if 'request' in one else one['url'] for one in sent]


@pytest.fixture
def page(server, browser):
    return Page(browser, server)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / 'scene.png'
    Image.fromarray(SCENE).save(path)
    return path


def inner_pixels(labels, class_id, count=3):
    """Pixels of a class, as (x, y), whose neighbours are of the same class."""
    same = np.pad(labels == class_id, 1)
    windows = np.lib.stride_tricks.sliding_window_view(same, (3, 3))
    ys, xs = np.nonzero(windows.all(axis=(2, 3)))
    assert len(ys) >= count
    return [(int(xs[i]), int(ys[i])) for i in np.linspace(0, len(ys) - 1, count).astype(int)]


def test_what_the_documentation_says(monkeypatch):
    from mmseg_escnet.web import page

    monkeypatch.syspath_prepend(ROOT / 'tools')
    defaults = importlib.import_module('web_demo').parse_args([])
    section = (ROOT / 'docs/inference.md').read_text().split('## In the browser')[1].split('## ')[0]
    assert f'{defaults.max_pixels // 1_000_000} million pixels' in section
    assert f'{page._MAX_FILE_BYTES >> 20} MiB' in section
    assert f'lists {defaults.max_words} words' in section
    assert f'({defaults.host})' in section
    options = {option.replace('-', '_') for option in re.findall(r'`--([a-z-]+)`', section)}
    assert {'host', 'port', 'max_pixels'} < options <= set(vars(defaults))
    assert page._WAITING == 16
    assert 'sixteen wait' in section


def test_it_is_served_here_alone(server):
    with urllib.request.urlopen(server, timeout=SECONDS) as answer:
        assert answer.status == 200
        assert "default-src 'self'" in answer.headers['content-security-policy']
    port = int(re.search(r':(\d+)/', server).group(1))
    with socket.socket() as other:  # another address of the same machine
        assert other.connect_ex(('127.0.0.2', port)) != 0


@pytest.mark.parametrize(
    ('host', 'port', 'why'),
    [
        ('127.0.0.1', 99_999, 'port 99999'),
        ('203.0.113.7', None, 'a port from 7860'),  # nobody's: for documentation
        ('no such name', 7860, 'no such name'),
    ],
)
def test_addresses_that_cannot_be_had(host, port, why):
    from mmseg_escnet.web import page

    with pytest.raises(ESCNetError, match=f'cannot be served at .*{why}.*--host or --port'):
        page._free_port(host, port)


def test_a_port_that_is_taken():
    from mmseg_escnet.web import page

    with (
        socket.create_server(('127.0.0.1', 0)) as taken,
        pytest.raises(ESCNetError, match='in use'),
    ):
        page._free_port('127.0.0.1', taken.getsockname()[1])


def test_it_begins_with_an_example_and_asks_nobody_else(page):
    assert page.one('#words textarea').get_attribute('value') == toy_examples()[0].words
    page.all('#examples button')[1].click()
    page.wait(lambda: page.names() == split_words(toy_examples()[1].words))
    urls = page.requests()
    assert len(urls) > 10
    assert [
        url for url in urls if not url.startswith(('http://127.0.0.1:', 'data:', 'blob:'))
    ] == []


def test_a_picture_and_words(page, picture, seg):
    result = seg(SCENE, split_words(WORDS))
    page.upload(picture)
    page.wait(lambda: page.one('.viewer').get_attribute('data-state') == 'picture')
    page.type(WORDS)
    page.segment()
    page.wait(lambda: page.names() == list(result.classes))
    assert page.notice() == ''
    rows = {
        name.text: share.text
        for name, share in zip(page.all('.viewer-name'), page.all('.viewer-share'), strict=True)
    }
    assert list(rows) == list(result.areas)
    for name, area in result.areas.items():
        assert rows[name] == f'{100 * area / SCENE[..., 0].size:.1f} %'
    for class_id, name in enumerate(result.classes):
        for x, y in inner_pixels(result.labels, class_id):
            shown, score = page.hover(x, y, *result.labels.shape)
            assert shown == name
            assert score == pytest.approx(result.scores[y, x], abs=0.008)

    # one class off and on again, and how strong the colours are: nothing of it asks the server
    page.requests()
    ((x, y),) = inner_pixels(result.labels, 3, 1)
    ((other_x, other_y),) = inner_pixels(result.labels, 4, 1)
    (box,) = page.all('.viewer-legend li[data-id="3"] input')
    assert page.painted(x, y)[3] == page.painted(other_x, other_y)[3] == 255
    assert page.painted(x, y)[:3] != page.painted(other_x, other_y)[:3]
    box.click()
    assert page.painted(x, y) == [0, 0, 0, 0]
    assert page.painted(other_x, other_y)[3] == 255
    page.one('.viewer-none').click()
    assert page.painted(other_x, other_y) == [0, 0, 0, 0]
    page.one('.viewer-all').click()
    assert box.is_selected()
    assert page.painted(x, y)[3] == page.painted(other_x, other_y)[3] == 255
    page.run("""const slider = document.querySelector('.viewer-opacity input');
        slider.value = 20; slider.dispatchEvent(new Event('input'))""")
    assert (
        page.run("return getComputedStyle(document.querySelector('.viewer-fill')).opacity") == '0.2'
    )
    assert page.requests() == []

    # the score map of a class
    (name,) = page.all('.viewer-legend li[data-id="3"] .viewer-name')
    name.click()
    page.wait(page.one('.viewer-mode').is_displayed)
    scores = result.class_scores(3)
    assert page.one('.viewer-mode-name').text == result.classes[3]
    assert float(page.one('.viewer-highest').text) == pytest.approx(scores.max(), abs=0.006)
    for x, y in ((5, 5), (60, 50), (90, 30)):
        shown, score = page.hover(x, y, *scores.shape)
        assert shown == result.classes[3]
        assert score == pytest.approx(scores[y, x], abs=0.008)
    page.one('.viewer-back').click()
    assert not page.one('.viewer-mode').is_displayed()

    # the files
    links = {link.get_attribute('download'): link for link in page.all('#files a')}
    assert set(links) == {'labels.png', 'labels.json', 'overlay.png'}
    with urllib.request.urlopen(links['labels.png'].get_attribute('href'), timeout=60) as file:
        np.testing.assert_array_equal(np.array(Image.open(file)), result.labels)
    with urllib.request.urlopen(links['labels.json'].get_attribute('href'), timeout=60) as file:
        assert json.load(file)['names'] == list(result.classes)


def test_a_background(page):
    page.one('#background input[value=words]').click()
    page.wait(lambda: page.all('#others textarea, #others input'))
    page.one('#others textarea, #others input').send_keys('wood, water')
    page.type('yellow heart')
    page.segment()
    page.wait(lambda: page.names() == ['yellow heart', 'other'])
    page.one('#background input[value=none]').click()
    page.segment()
    page.wait(lambda: page.names() == ['yellow heart'])
    assert 'every pixel is that word' in page.notice()


def test_look_inside(page):
    (tab,) = (tab for tab in page.all('[role=tab]') if tab.text == 'Look inside')
    tab.click()
    page.wait(lambda: page.one('#word input').is_displayed())
    assert page.one('#word input').get_attribute('value') == 'yellow heart'
    page.one('#look').click()
    page.wait(lambda: page.all('#inside img'))
    page.wait(lambda: page.run("return document.querySelector('#inside img').naturalWidth") > 400)
    assert page.notice() == ''


def test_markup_is_text(page):
    page.type('\n'.join(word.replace(',', ' ') for word in MARKUP))
    page.segment()
    asked = [word.strip() for word in MARKUP]
    page.wait(lambda: page.names() == asked)
    for row in page.all('.viewer-legend li'):
        row.find_element(By.CSS_SELECTOR, '.viewer-name').click()
        page.wait(lambda row=row: 'viewer-current' in row.get_attribute('class'))
    name, _ = page.hover(40, 40, 96, 96)
    assert name in asked
    for tab in page.all('[role=tab]'):
        tab.click()
    assert page.run('return window.hacked') is None
    assert page.all('img[src="x"], .viewer b, #word b') == []
    assert page.run('return document.documentElement.scrollWidth <= window.innerWidth')


def test_after_bad_input_the_page_goes_on(page, picture, tmp_path):
    cut = tmp_path / 'cut.png'
    cut.write_bytes(picture.read_bytes()[:-500])
    empty = tmp_path / 'empty.jpg'
    empty.write_bytes(b'')
    bomb = tmp_path / 'bomb.png'
    Image.new('1', (20_000, 20_000)).save(bomb)
    for path, why in ((cut, 'cannot be decoded'), (empty, 'empty'), (bomb, 'more than 178956970')):
        page.upload(path)
        page.wait(lambda why=why: why in page.notice())
        assert page.one('#notice .notice').is_displayed()
    many = '\n'.join(f'w{i}' for i in range(100_000))
    for words, why in (
        ('', 'no words'),
        (many, 'at most 1000'),
        ('a\a', 'control'),
        ('<b>' * 4000, 'shorten it'),
        ('a,a', 'twice'),
    ):
        page.type(words)
        page.segment()
        page.wait(lambda why=why: why in page.notice())
    assert page.names() == split_words(toy_examples()[0].words)  # as before
    page.upload(picture)
    page.wait(lambda: page.one('.viewer').get_attribute('data-state') == 'picture')
    page.type(WORDS)
    page.segment()
    page.wait(lambda: page.names() == split_words(WORDS))
    assert page.notice() == ''
