"""The legend beside a picture, and names in any script."""

import numpy as np
import pytest
from PIL import Image

from mmseg_escnet.visualization import fonts
from mmseg_escnet.visualization.legend import Entry, add_legend, legend_entries, stripes

NAMES = ['taxi', 'wet road, street', 'never seen']
PALETTE = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_entries():
    labels = np.zeros((10, 10), np.uint8)
    labels[:6] = 1
    labels[9] = 255
    assert legend_entries([labels], NAMES, PALETTE) == [
        Entry('wet road, street', ('60.0 %',), PALETTE[1]),
        Entry('taxi', ('30.0 %',), PALETTE[0]),
        Entry('(no class)', ('10.0 %',)),
    ]


def test_entries_of_two_maps():
    one, other = np.zeros((100, 100), np.uint16), np.ones((100, 100), np.uint16)
    other[0, 0], one[:50] = 2, 65535
    found = legend_entries([one, other], NAMES, PALETTE, no_class='ignored', is_striped=True)
    assert found == [
        Entry('wet road, street', ('', '100.0 %'), PALETTE[1]),
        Entry('taxi', ('50.0 %', ''), PALETTE[0]),
        Entry('never seen', ('', '< 0.1 %'), PALETTE[2]),
        Entry('ignored', ('50.0 %', ''), is_striped=True),
    ]


def test_absent_classes():
    """Up to ten of those that were asked for are named, in the order of the vocabulary."""
    labels = np.ones((10, 10), np.uint8)
    found = legend_entries([labels], NAMES, PALETTE, num_asked=3)
    street = 'wet road, street'
    assert [entry.text for entry in found] == [street, 'not found:', 'taxi', 'never seen']
    assert all(entry.color is None and entry.shares == ('',) for entry in found[1:])
    texts = [e.text for e in legend_entries([labels], NAMES, PALETTE, num_asked=2)]
    assert texts == [street, 'not found:', 'taxi'], 'the last one is the background'
    everything = np.arange(3).reshape(1, 3)
    texts = [e.text for e in legend_entries([everything], NAMES, PALETTE, num_asked=3)]
    assert 'not found:' not in texts
    names = [f'word {i}' for i in range(847)]
    texts = [e.text for e in legend_entries([labels], names, PALETTE * 300, num_asked=847)]
    assert texts[2:4] == ['word 0', 'word 2']
    assert (len(texts), texts[-1]) == (13, '... 836 more')
    nothing = np.full((4, 4), 255)
    texts = [e.text for e in legend_entries([nothing], NAMES, PALETTE, num_asked=3)]
    assert texts == ['(no class)', 'not found:', 'taxi', street, 'never seen']


def test_many_classes():
    labels = np.arange(847, dtype=np.uint16)[None]
    names = [f'a word with a rather long name, number {i}' for i in range(847)]
    entries = legend_entries([labels], names, [(i % 256, 40, 200) for i in range(847)])
    assert len(entries) == 41
    assert entries[-1] == Entry('... 807 more', ('95.3 %',))
    assert all(len(entry.text) <= 28 for entry in entries)
    assert len({entry.text for entry in entries}) == 41


@pytest.mark.parametrize('is_below', [False, True])
@pytest.mark.parametrize('count', [1, 7, 41])
def test_places(is_below, count):
    """Every line is drawn once, nothing covers the picture or reaches the border."""
    entries = [Entry(f'name {i}', ('1.0 %', '2.0 %'), (i, 0, 255)) for i in range(count)]
    entries.append(Entry('ignored', ('', '3.0 %'), is_striped=True))
    picture = Image.new('RGB', (900, 300), (1, 2, 3))
    drawn = np.array(add_legend(picture, entries, 14, heads=['a', 'b'], is_below=is_below))
    assert (drawn[:300, :900] == (1, 2, 3)).all()
    if is_below:
        assert drawn.shape[1] == 900, 'as many columns as fit'
        outside = drawn[300:]
    else:
        outside = drawn[:, 900:]
        assert drawn.shape[0] >= 300
    for i in range(count):
        assert (outside == (i, 0, 255)).all(axis=-1).sum() == 13 * 13, 'a box without its edge'
    for edge in (outside[:, -3:], outside[-3:]):
        assert (edge == 255).all(), 'text reaches the border'
    greys = {tuple(color) for color in stripes(5, 5, 2).reshape(-1, 3).tolist()}
    assert len(greys) == 2
    assert all((outside == grey).all(axis=-1).sum() > 50 for grey in greys)


# -- names in any script -----------------------------------------------------------------------


def test_letters_of_our_font():
    for text in ('wet road', 'ταξί', 'такси', 'שלום', 'سيارة', 'crème brûlée'):
        font, written = fonts.font_for(text, 14)
        assert (font.getname()[0], written) == ('DejaVu Sans', text)


@pytest.fixture
def installed(monkeypatch):
    """Sets which fonts are installed."""
    fonts._find_font.cache_clear()
    yield lambda *paths: monkeypatch.setattr(fonts, '_installed_fonts', lambda: paths)
    fonts._find_font.cache_clear()


@pytest.mark.parametrize(
    ('text', 'drawn', 'package'),
    [
        ('taxi 出租', 'taxi ??', 'fonts-noto-cjk'),
        ('カタ', '??', 'fonts-noto-cjk'),
        ('택시', '??', 'fonts-noto-cjk'),
        ('\U0001f469\u200d\U0001f680', '?\u200d?', 'fonts-symbola'),
        ('टैक्सी', '?' * 6, 'fonts-noto-core'),
    ],
)
def test_letters_that_no_font_has(installed, text, drawn, package):
    installed()
    with pytest.warns(UserWarning, match=f'drawn as .*{package}'):
        font, written = fonts.font_for(text, 14)
    assert (font.getname()[0], written) == ('DejaVu Sans', drawn)


def test_the_font_with_most_letters(installed, monkeypatch, tmp_path):
    """If none has all of them; the missing ones are named."""
    some, most = tmp_path / 'a.ttf', tmp_path / 'b.ttf'
    has = {fonts._OUR_FONT: 'taxi ', some: 'taxi 出', most: 'taxi 出租'}
    monkeypatch.setattr(fonts, '_letters', lambda path: set(map(ord, has[path])))
    for path in (some, most):
        path.symlink_to(fonts._OUR_FONT.with_name('DejaVuSansMono.ttf'))
    installed(some, most)
    with pytest.warns(UserWarning, match="'车' is drawn as"):
        font, written = fonts.font_for('taxi 出租车', 14)
    assert (font.getname()[0], written) == ('DejaVu Sans Mono', 'taxi 出租?')


def test_fonts_installed_a_moment_ago_are_found():
    """matplotlib keeps a list from the day it was first used."""
    paths = fonts._installed_fonts()
    assert set(map(str, paths)) == set(fonts.font_manager.findSystemFonts())


def test_letters_that_another_font_has(installed, monkeypatch, tmp_path):
    """An installed font that has them is taken; one that cannot be read is passed over."""
    broken, other = tmp_path / 'a.ttf', tmp_path / 'b.ttf'
    broken.write_bytes(b'no font')
    other.symlink_to(fonts._OUR_FONT.with_name('DejaVuSansMono.ttf'))
    installed(broken, other)
    have = fonts._letters
    monkeypatch.setattr(
        fonts, '_letters', lambda path: have(path) | ({ord('出')} if path == other else set())
    )
    font, written = fonts.font_for('taxi 出', 14)
    assert (font.getname()[0], written) == ('DejaVu Sans Mono', 'taxi 出')
