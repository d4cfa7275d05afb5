"""tools/model_converters/make_inference_file.py, and tools/infer.py with nothing but its file."""

import json
import os

import pytest
from conftest import ROOT, load_tool
from PIL import Image
from tool_processes import run_tool

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis.inference_file import read_words
from mmseg_escnet.toyworld.scenes import scene

CONFIG = str(ROOT / 'configs/toyworld/escnet_toy.py')
CHECKPOINT = str(ROOT / 'data/toyworld/escnet.pth')


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/model_converters/make_inference_file.py')


@pytest.fixture(scope='module')
def file(tool, tmp_path_factory):
    folder = tmp_path_factory.mktemp('file')
    (folder / 'words.txt').write_text('red circle\nwood: wood | planks\nwater\n')
    out = folder / 'new/toy.safetensors'
    tool.main([CONFIG, CHECKPOINT, str(out), '--half', f'--classes-file={folder / "words.txt"}'])
    assert os.listdir(out.parent) == [out.name]  # nothing is left behind
    return out


def test_words(file):
    words = read_words(file)
    assert words.names == ('red circle', 'wood', 'water')
    assert words.synonyms[1] == ('wood', 'planks')


def test_infer_needs_nothing_else(file, tmp_path):
    Image.fromarray(scene(0, 3)[0]).save(tmp_path / 'scene.png')
    command = [ROOT / 'tools/infer.py', 'scene.png', '--checkpoint', file, '--out-dir', 'out']
    done = run_tool(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'toy world' not in done.stdout  # that is what it says without a checkpoint
    names = json.loads((tmp_path / 'out/names.json').read_text())
    assert 'planks' in json.dumps(names)
    with Image.open(tmp_path / 'out/labels/scene.png.png') as labels:
        assert labels.size == (96, 96)
        assert set(labels.get_flattened_data()) <= {0, 1, 2}


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ([CONFIG, CHECKPOINT, 'x.pth'], r'x\.pth must end in \.safetensors'),
        ([CONFIG, CHECKPOINT, 'there.safetensors'], 'there.safetensors exists'),
        ([CONFIG, 'none.pth', 'x.safetensors'], 'none.pth does not exist'),
        (['none.py', CHECKPOINT, 'x.safetensors'], 'none.py does not exist'),
        (
            [CONFIG, CHECKPOINT, 'x.safetensors', '--cfg-options', 'model.neck.num_blocks=1'],
            'does not fit|not in',
        ),
    ],
)
def test_bad_input(arguments, said, tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'there.safetensors').write_text('mine')
    with pytest.raises(ESCNetError, match=said):
        tool.main(arguments)
    assert os.listdir(tmp_path) == ['there.safetensors']
    assert (tmp_path / 'there.safetensors').read_text() == 'mine'


def test_force(tool, tmp_path):
    out = tmp_path / 'there.safetensors'
    out.write_text('mine')
    tool.main([CONFIG, CHECKPOINT, str(out), '--force'])
    assert len(read_words(out)) > 30
