"""The colours of classes: distinguishable as they are seen, and stable."""

import itertools
import re

import numpy as np
import pytest
from conftest import ROOT, load_tool
from PIL import Image, ImageCms

from mmseg_escnet import Vocabulary
from mmseg_escnet.colors import BACKGROUND, CLASS_COLORS, OPACITY, distinct_in_picture
from mmseg_escnet.datasets import ADE20K150Dataset, ADE20K847Dataset
from mmseg_escnet.vocabulary import palette_of

WORDS = ADE20K847Dataset.METAINFO['classes']
# Vienot, Brettel and Mollon 1999: what protanopes and deuteranopes see, of linear RGB
BLIND = (
    ((0.1124, 0.8876, 0), (0.1124, 0.8876, 0), (0.0040, -0.0040, 1)),
    ((0.2928, 0.7072, 0), (0.2928, 0.7072, 0), (-0.0223, 0.0223, 1)),
)


_PROFILES = ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB')
_TO_LAB = ImageCms.buildTransform(*_PROFILES, 'RGB', 'LAB')


def lab(colors) -> np.ndarray:
    """CIELAB by LittleCMS, in 8 bits, which is within 1 of the true values."""
    image = Image.fromarray(np.array(colors).round().astype(np.uint8)[None])
    values = np.array(ImageCms.applyTransform(image, _TO_LAB))[0].astype(float)
    return np.column_stack(
        [values[:, 0] / 2.55, (values[:, 1:] + 128) % 256 - 128]  # a and b are signed
    )


def as_seen_by_the_blind(colors, matrix) -> np.ndarray:
    linear = (np.array(colors) / 255) ** 2.2 @ np.transpose(matrix)
    return 255 * np.clip(linear, 0, 1) ** (1 / 2.2)


def least_distance(colors) -> float:
    places = lab(colors)
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    return distances[~np.eye(len(places), dtype=bool)].min()


@pytest.mark.parametrize('ground', [(0, 0, 0), (128, 128, 128), (255, 255, 255), (70, 120, 40)])
@pytest.mark.parametrize(('count', 'normal', 'blind'), [(3, 40, 20), (6, 40, 20), (20, 19, 9)])
def test_random_words_over_any_ground(count, normal, blind, ground):
    """Also apart from the background; 8-bit values and the other matrices cost up to 3."""
    random = np.random.default_rng(count)
    for _ in range(20):
        words = [WORDS[i] for i in random.choice(len(WORDS), count, replace=False)]
        colors = np.array([*palette_of(words), BACKGROUND])
        seen = OPACITY * colors + (1 - OPACITY) * np.array(ground)
        assert least_distance(seen) > normal
        for matrix in BLIND:
            assert least_distance(as_seen_by_the_blind(seen, matrix)) > blind


def test_published_palettes_are_not_that_distinguishable():
    palette, random = ADE20K150Dataset.METAINFO['palette'], np.random.default_rng(0)
    lists = [[palette[i] for i in random.choice(150, 20, replace=False)] for _ in range(20)]
    assert max(map(least_distance, lists)) < 20


def test_a_word_keeps_its_colour():
    """While words are appended, and whatever its synonyms, phrases and case are."""
    longest = palette_of(WORDS)
    for count in (1, 6, 7, 20, 21, 40, 41, 846):
        assert palette_of(WORDS[:count]) == longest[:count]
    for names in (['Sea | water', 'lake'], ['sea, ocean', 'lake | pond'], ['SEA', 'lake|']):
        assert palette_of(names) == palette_of(['sea', 'lake'])
    phrases = [['water', 'ocean'], None]
    by_phrase = Vocabulary.create(['sea', 'lake'], phrases=phrases)
    assert by_phrase.palette == Vocabulary.create(['sea | water', 'lake']).palette


def test_different_words_usually_keep_their_colours():
    """Words in another order, or in a list with others, among as few."""
    same = [
        palette_of([word, other])[0] == palette_of([other, word])[1]
        for word, other in itertools.pairwise(WORDS)
    ]
    assert np.mean(same) > 0.8


def test_colours_are_used_as_long_as_there_are_any():
    palette = list(map(tuple, palette_of(WORDS)))
    assert len(set(CLASS_COLORS)) == 40
    for start in range(0, 847 - 40, 40):
        assert set(palette[start : start + 40]) == set(CLASS_COLORS)
    for word in ('', ' | ', '出租车', '\U0001f695'):
        assert tuple(palette_of([word])[0]) in CLASS_COLORS


def test_colours_of_one_picture():
    """Of 847 words the classes in a picture differ, and the first ones keep their colours."""
    palette, random = palette_of(WORDS), np.random.default_rng(0)
    for count in (2, 5, 20, 21, 40):
        present = random.choice(847, count, replace=False).tolist()
        chosen = distinct_in_picture(palette, present)
        assert len({chosen[i] for i in present}) == count
        usable = CLASS_COLORS[:20] if count <= 20 else CLASS_COLORS
        assert {chosen[i] for i in present} <= set(usable)
        firsts = {tuple(palette[i]): i for i in present[::-1]}
        assert all(chosen[i] == color for color, i in firsts.items() if color in usable)
        others = set(range(847)) - set(present)
        assert all(chosen[i] == tuple(palette[i]) for i in others)
    everything = distinct_in_picture(palette, range(847))
    assert len(set(everything)) == 40


def test_up_to_20_words_have_one_colour_in_all_pictures():
    palette = palette_of(WORDS[:20])
    for present in ([3], [19, 0], range(20), []):
        assert distinct_in_picture(palette, present) == list(map(tuple, palette))


@pytest.mark.parametrize('color', [(9, 9, 200), (128, 128, 128), (229, 255, 1)])
def test_published_colours_are_kept(color):
    """Also where several classes share one, as in COCO-Stuff."""
    assert distinct_in_picture([color] * 3, [2, 0, 1]) == [color] * 3
    published = ADE20K150Dataset.METAINFO['palette']
    assert distinct_in_picture(published, range(150)) == list(map(tuple, published))
    assert distinct_in_picture([], []) == []


def test_the_figures_of_the_documentation(capsys):
    """As the command prints them; the least distances hardly depend on the number of lists."""
    load_tool('tools/analysis/color_distances.py').main(['--lists', '100'])
    printed = [line.strip('|').split('|') for line in capsys.readouterr().out.splitlines()[2:]]
    least = {(int(row[0]), row[1].strip()): row[2].strip() for row in printed}
    section = (ROOT / 'docs/evaluation.md').read_text().split('## Overlays')[1].split('## ')[0]
    rows = re.findall(r'^\| (\d+) \| ([\d.]+) \| ([\d.]+) \|', section, re.M)
    assert len(rows) == 4
    for count, normal, blind in rows:
        assert least[int(count), 'normal'] == normal
        assert least[int(count), 'red-green blind'] == blind
