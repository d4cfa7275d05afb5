"""tools/analysis/visualize_blocks.py as a user calls it, with the trained miniature model."""

import sys

import numpy as np
import pytest
from conftest import ROOT, load_tool
from PIL import Image

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis import inferencer as inferencer_module
from mmseg_escnet.toyworld.model import toy_model
from mmseg_escnet.toyworld.scenes import scene

TOOL = ROOT / 'tools/analysis/visualize_blocks.py'
CLASSES = 'orange ring, wood, sea | water'


@pytest.fixture(scope='module')
def tool():
    return load_tool(TOOL)


@pytest.fixture(scope='module')
def seg():
    return inferencer_module.OpenVocabInferencer(*toy_model(), 'cpu')


@pytest.fixture
def folder(tmp_path, seg, monkeypatch):
    """The working folder, with a.png in it; the model is loaded once for all tests."""
    seg.loaded, seg.options = 0, []
    look_inside = seg.look_inside

    def load(*_, **__):
        seg.loaded += 1
        return seg

    def watched(*args, **options):
        seg.options.append(options)
        return look_inside(*args, **options)

    monkeypatch.setattr(seg, 'look_inside', watched)
    monkeypatch.setattr(inferencer_module, 'OpenVocabInferencer', load)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(scene(0, 1_000_000)[0]).save('a.png')
    return tmp_path


def test_one_word(tool, seg, folder, capsys):
    tool.main(['a.png', '--classes', CLASSES, '--word', 'water', '--out', 'x/b.png', '--arrays'])
    assert 'x/b.png: sea | water' in capsys.readouterr().out
    assert {path.name for path in (folder / 'x').iterdir()} == {'b.png', 'b.npz'}
    assert np.asarray(Image.open('x/b.png').convert('L')).std() > 20
    expected = seg.look_inside('a.png', CLASSES.split(','), 'water').arrays()
    with np.load('x/b.npz') as stored:
        assert set(stored) == set(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(stored[name], values)


def test_all_words(tool, seg, folder):
    """A file for each, of the classes and of the background."""
    options = ['--background', 'brick', '--templates', 'a {}', '--synonyms', 'first']
    tool.main(['a.png', '--classes', 'wood, sea | water', *options])
    made = ['blocks_brick.png', 'blocks_sea_water.png', 'blocks_wood.png']
    assert sorted(path.name for path in folder.glob('blocks*')) == made
    assert not list(folder.glob('*.npz'))
    assert seg.options == [dict(templates=['a {}'], synonyms='first')]


def test_names_of_files(tool, folder):
    names = tool.name_files(folder / 'b.svg', ['a/b', 'A b', '..', '狗', 'x' * 300])
    expected = ['b_a_b.svg', 'b_a_b_2.svg', 'b_.svg', 'b_狗.svg', f'b_{"x" * 60}.svg']
    assert [name.name for name in names] == expected
    assert {name.parent for name in names} == {folder}
    assert tool.name_files(folder / 'b.png', ['dog']) == [folder / 'b.png']


@pytest.mark.parametrize(
    ('arguments', 'message', 'loaded'),
    [
        (['a.png', '--word', 'yelow heart'], "did you mean 'yellow heart'", 0),
        (['a.png', '--word', 'wood', '--out', 'a.jpg'], 'a.jpg must end in .png or', 0),
        (['b.png', '--word', 'wood'], r'b\.png cannot be read', 1),
    ],
)
def test_bad_input(tool, seg, folder, arguments, message, loaded):
    with pytest.raises(ESCNetError, match=message):
        tool.main(arguments)
    assert seg.loaded == loaded, 'the model takes long'
    assert [path.name for path in folder.iterdir()] == ['a.png']
