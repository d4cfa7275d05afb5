"""The report: whole, valid, self-contained, and no text of it is read as HTML."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from PIL import Image

from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.visualization import Section, Table, save_figure, write_report

_VOID = {'meta', 'img'}
_LOADS = {'src', 'href', 'srcset', 'data', 'action', 'poster', 'background', 'cite'}


class Page(HTMLParser):
    """A page read strictly: every element is closed, and in order.

    Attributes:
        elements: (tag, attributes, text, tags around it) of every element.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements, self._open, self.declarations = [], [], []
        self.feed(text)
        self.close()
        assert self._open == [], 'not closed'

    def handle_decl(self, decl):
        self.declarations.append(decl)

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs)
        around = [element['tag'] for element in self._open]
        element = dict(tag=tag, attributes=dict(attrs), text='', around=around)
        self.elements.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        raise AssertionError(f'<{tag}/> is no HTML5')

    def handle_endtag(self, tag):
        assert self._open, f'</{tag}> without a beginning'
        assert self._open.pop()['tag'] == tag

    def handle_data(self, data):
        for element in self._open:
            element['text'] += data

    def all(self, tag: str) -> list[dict]:
        return [element for element in self.elements if element['tag'] == tag]

    def texts(self, tag: str) -> list[str]:
        return [element['text'] for element in self.all(tag)]


@pytest.fixture
def figure() -> Figure:
    return Figure(figsize=(2, 1), facecolor=(1, 0, 0))


class Broken(Artist):
    """What cannot be drawn."""

    def draw(self, renderer):
        raise RuntimeError('cannot be drawn')


@pytest.fixture
def broken() -> Figure:
    figure = Figure()
    figure.add_artist(Broken())
    return figure


def read(tmp_path, *sections: Section, title: str = 'Title') -> Page:
    path = write_report(tmp_path / 'new' / 'report.html', title=title, sections=sections)
    assert [file.name for file in path.parent.iterdir()] == ['report.html']
    return Page(path.read_text(encoding='utf-8'))


def test_everything_is_on_the_page_in_order(tmp_path, figure):
    page = read(
        tmp_path,
        Section('First', paragraphs=['one', 'two']),
        Section(
            'Second',
            tables=[Table(['method', 'mIoU'], [['ours', '50.1'], ['théirs', None]], 'In %.')],
            figures=[('A red field.', figure)],
            code='make demo\nmake test',
        ),
    )
    assert page.declarations == ['DOCTYPE html']
    assert page.texts('title') == page.texts('h1') == ['Title']
    assert page.texts('h2') == ['First', 'Second']
    assert page.texts('p') == ['one', 'two']
    assert page.texts('figcaption') == ['In %.', 'A red field.']
    assert [element['text'] for element in page.all('th')] == ['method', 'mIoU', 'ours', 'théirs']
    assert [th['attributes']['scope'] for th in page.all('th')] == ['col', 'col', 'row', 'row']
    assert page.texts('td') == ['50.1', '—']
    assert page.texts('pre') == ['make demo\nmake test']
    assert [section['text'].split()[0] for section in page.all('section')] == ['First', 'Second']
    assert page.all('html')[0]['attributes']['lang'] == 'en'


def test_a_figure_is_inside_the_page(tmp_path, figure):
    (image,) = read(tmp_path, Section('S', figures=[('A "red" <field>', figure)])).all('img')
    attributes = image['attributes']
    assert attributes['alt'] == 'A "red" <field>'
    head, data = attributes['src'].split(',')
    assert head == 'data:image/png;base64'
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert('RGB'))
    assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]
    # 2 x 1 inches at the 96 pixels an inch has in CSS; the file is finer than that
    assert (attributes['width'], attributes['height']) == ('192', '96')
    assert pixels.shape == (144, 288, 3)


def test_the_page_loads_nothing(tmp_path, figure):
    sections = [Section(f'S{i}', figures=[('red', figure)], code='x') for i in range(4)]
    page = read(tmp_path, *sections)
    checked = 0
    for element in page.elements:
        assert element['tag'] not in {'script', 'link', 'iframe', 'object', 'embed', 'base'}
        for name in _LOADS & element['attributes'].keys():
            checked += 1
            assert element['attributes'][name].startswith(('data:image/png;base64,', '#'))
    assert checked == 8
    (style,) = page.texts('style')
    assert not any(word in style for word in ('url(', '@import', '@font-face', 'http'))
    (policy,) = (
        meta['attributes']['content']
        for meta in page.all('meta')
        if meta['attributes'].get('http-equiv') == 'Content-Security-Policy'
    )
    assert policy.split('; ')[:2] == ["default-src 'none'", 'img-src data:']


def test_the_page_suits_a_phone_and_both_colour_schemes(tmp_path, figure):
    table = Table(['a'], [['1']])
    page = read(tmp_path, Section('S', tables=[table], figures=[('red', figure)]))
    assert any(meta['attributes'].get('name') == 'viewport' for meta in page.all('meta'))
    (style,) = page.texts('style')
    assert '@media (prefers-color-scheme: dark)' in style
    assert '.scroll { overflow-x: auto; }' in style
    assert style.count('{') == style.count('}')
    scrolled = {element['tag'] for element in page.elements if 'div' in element['around']}
    assert {'table', 'img'} <= scrolled
    assert all(div['attributes']['class'] == 'scroll' for div in page.all('div'))
    # colours are named once for each scheme, and no name is used that is not defined
    names = {part.split(')')[0] for part in style.split('var(')[1:]}
    assert names
    assert all(f'{name}:' in style for name in names)


@pytest.mark.parametrize('number', [3, 4])
def test_contents_of_a_long_page(tmp_path, number):
    page = read(tmp_path, *(Section(f'Section <{i}>') for i in range(number)))
    links = [(link['attributes']['href'], link['text']) for link in page.all('a')]
    ids = [section['attributes']['id'] for section in page.all('section')]
    assert len(set(ids)) == number
    expected = [(f'#{ids[i]}', f'Section <{i}>') for i in range(number)]
    assert links == (expected if number > 3 else [])
    assert len(page.all('nav')) == (number > 3)


def test_no_text_is_read_as_html(tmp_path, figure):
    text = '<script>alert("1")</script> & \'</style></title></code>-->'
    sections = [
        Section(
            text,
            paragraphs=[text],
            tables=[Table([text, text], [[text, text]], text)],
            figures=[(text, figure)],
            code=text,
        )
    ] * 4
    page = read(tmp_path, *sections, title=text)
    assert page.all('script') == []
    assert page.texts('title') == page.texts('h1') == [text]
    for tag, times in dict(h2=4, a=4, p=4, th=12, td=4, figcaption=8, code=4).items():
        assert page.texts(tag) == [text] * times
    assert [image['attributes']['alt'] for image in page.all('img')] == [text] * 4


def test_a_row_that_does_not_fit_its_table(tmp_path):
    table = Table(['a', 'b'], [['1', '2'], ['3']], 'Results')
    with pytest.raises(ESCNetError, match=r"\['3'\] of table 'Results' has 1 cells for 2"):
        read(tmp_path, Section('S', tables=[table]))


def test_what_was_there_stays_if_a_figure_cannot_be_drawn(tmp_path, figure, broken):
    page, picture = tmp_path / 'report.html', tmp_path / 'figure.png'
    for path in (page, picture):
        path.write_text('old')
    with pytest.raises(RuntimeError, match='cannot be drawn'):
        write_report(page, title='T', sections=[Section('S', figures=[('', figure), ('', broken)])])
    with pytest.raises(RuntimeError, match='cannot be drawn'):
        save_figure(broken, picture)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        'report.html': 'old',
        'figure.png': 'old',
    }


def test_what_was_there_stays_if_the_disk_refuses(tmp_path, figure, monkeypatch):
    page, picture = tmp_path / 'report.html', tmp_path / 'figure.png'
    for path in (page, picture):
        path.write_text('old')

    def refuse(*args):
        raise OSError('no space left')

    monkeypatch.setattr('mmseg_escnet.files.os.replace', refuse)
    with pytest.raises(ESCNetError, match='no space left'):
        write_report(page, title='T', sections=[Section('S')])
    with pytest.raises(ESCNetError, match='no space left'):
        save_figure(figure, picture)
    assert sorted(tmp_path.iterdir()) == [picture, page]
    assert page.read_text() == picture.read_text() == 'old'


def test_a_saved_figure(tmp_path, figure):
    path = save_figure(figure, tmp_path / 'new' / 'figure.png')
    assert [file.name for file in path.parent.iterdir()] == ['figure.png']
    assert Image.open(path).format == 'PNG'
    assert Image.open(path).size == (288, 144)
    assert Image.open(save_figure(figure, path, dpi=50)).size == (100, 50)
