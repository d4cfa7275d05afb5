"""The contact sheet: the right names and colours in the right places."""

import numpy as np
from mmengine.registry import init_default_scope
from small_datasets import dataset_cfg, write_pair

from mmseg_escnet.datasets.contact_sheet import assign_colors, contact_sheet, format_share
from mmseg_escnet.datasets.inspection import IGNORED, OUTSIDE, build_dataset, inspect_dataset


def test_classes_of_one_image_have_different_colors():
    rng = np.random.default_rng(0)
    scenes = [rng.choice(60, 12, replace=False).tolist() for _ in range(5)]
    colors = assign_colors([[*scene, IGNORED, OUTSIDE] for scene in scenes])
    assert set(colors) == set().union(*scenes)
    for scene in scenes:
        assert len({colors[i] for i in scene}) == 12
    # with more classes than colours it is the smallest ones that share theirs
    crowded = rng.permutation(40).tolist()
    colors = assign_colors([crowded])
    assert len({colors[i] for i in crowded[:18]}) == 18


def test_contact_sheet(tmp_path):
    """Left half a cat, right half trees; a strip of no class below, and an ignored one above."""
    init_default_scope('mmseg')
    ids = np.zeros((40, 60), np.uint8)
    ids[:, 30:] = 3
    ids[32:] = 9
    ids[:8] = 255
    write_pair(tmp_path, 'a', ids)
    write_pair(tmp_path, 'b', np.full((60, 40), 2))
    write_pair(tmp_path, 'c', np.zeros((30, 20)), size=(20, 20))  # cannot be drawn
    figure = contact_sheet(inspect_dataset(build_dataset(dataset_cfg(tmp_path))), 'a $title$')
    assert figure.texts[0].get_text() == 'a $title$ (2 of 3 images)'
    assert figure.texts[1].get_text() == 'a.jpg   60x40'
    photo, overlay, legend, *second = figure.axes
    assert len(second) == 3
    entries = [text.get_text() for text in legend.get_legend().get_texts()]
    assert entries == ['cat  30 %', 'tree  30 %', '(id of no class)  20 %', '(ignored)  20 %']
    picture = overlay.images[0].get_array().astype(int)
    assert photo.images[0].get_array().shape == picture.shape
    height, width = picture.shape[:2]
    colors = assign_colors([[0, 3], [2]])
    for column, class_id in ((0.25, 0), (0.75, 3)):
        painted = picture[height // 2, round(column * width)]
        cosine = painted @ np.array(colors[class_id])
        cosine = cosine / np.linalg.norm(painted) / np.linalg.norm(colors[class_id])
        assert cosine > 0.97
    assert np.ptp(picture[height // 10, 5:-5], axis=-1).max() < 10, 'ignored pixels are grey'
    assert (picture[round(0.9 * height)] == (255, 0, 255)).all(axis=-1).mean() > 0.3
    written = {text.get_text(): text.get_position() for text in overlay.texts}
    assert set(written) == {'cat', 'tree', '(id of no class)'}
    assert written['cat'][0] < width / 2 < written['tree'][0]
    assert written['(id of no class)'][1] > 0.8 * height
    assert [text.get_text() for text in second[1].texts] == ['red [car]']
    texts = [*figure.texts, *overlay.texts, *legend.get_legend().get_texts()]
    assert not any(text.get_parse_math() for text in texts), 'names are no formulas'


def test_shares_keep_the_digits_they_need():
    shares = (0, 0.0004, 0.001, 0.0494, 0.0994, 0.0996, 0.5, 1)
    expected = ['0 %', '<0.1 %', '0.1 %', '4.9 %', '9.9 %', '10 %', '50 %', '100 %']
    assert [format_share(share) for share in shares] == expected
