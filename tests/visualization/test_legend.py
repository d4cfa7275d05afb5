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
        Entry('wet road', ('60.0 %',), PALETTE[1]),
        Entry('taxi', ('30.0 %',), PALETTE[0]),
        Entry('(no class)', ('10.0 %',)),
    ]


def test_entries_of_two_maps():
    one, other = np.zeros((100, 100), np.uint16), np.ones((100, 100), np.uint16)
    other[0, 0], one[:50] = 2, 65535
    found = legend_entries(
        [one, other], NAMES, PALETTE, no_class='ignored', is_striped=True, recolored={2}
    )
    assert found == [
        Entry('wet road', ('', '100.0 %'), PALETTE[1]),
        Entry('taxi', ('50.0 %', ''), PALETTE[0]),
        Entry('never seen*', ('', '< 0.1 %'), PALETTE[2]),
        Entry('ignored', ('50.0 %', ''), is_striped=True),
        Entry('* changed colour', ('', '')),
    ]


def test_many_classes():
    labels = np.arange(847, dtype=np.uint16)[None]
    names = [f'a word with a rather long name, number {i}' for i in range(847)]
    entries = legend_entries([labels], names, [(i % 256, 40, 200) for i in range(847)])
    assert len(entries) == 41
    assert entries[-1] == Entry('... 807 more', ('95.3 %',))
    assert all(len(entry.text) <= 28 for entry in entries)


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


def test_letters_that_no_font_has(monkeypatch):
    monkeypatch.setattr(fonts, '_installed_fonts', lambda: ())
    fonts._find_font.cache_clear()
    font, written = fonts.font_for('taxi 出租 \U0001f469\u200d\U0001f680', 14)
    fonts._find_font.cache_clear()
    assert (font.getname()[0], written) == ('DejaVu Sans', 'taxi ?? ?\u200d?')


def test_letters_that_another_font_has(monkeypatch, tmp_path):
    """An installed font that has them is taken; one that cannot be read is passed over."""
    broken, other = tmp_path / 'a.ttf', tmp_path / 'b.ttf'
    broken.write_bytes(b'no font')
    other.symlink_to(fonts._OUR_FONT.with_name('DejaVuSansMono.ttf'))
    monkeypatch.setattr(fonts, '_installed_fonts', lambda: (broken, other))
    have = fonts._letters
    monkeypatch.setattr(
        fonts, '_letters', lambda path: have(path) | ({ord('出')} if path == other else set())
    )
    fonts._find_font.cache_clear()
    font, written = fonts.font_for('taxi 出', 14)
    fonts._find_font.cache_clear()
    assert (font.getname()[0], written) == ('DejaVu Sans Mono', 'taxi 出')
