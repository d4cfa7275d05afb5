"""The notebook runs from top to bottom, and shows what its committed outputs show.

python tests/test_notebook.py writes them anew.
"""

import base64
import copy
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import pytest
import torch
from conftest import ROOT, small_clip_cfg, write_openai_clip
from nbclient import NotebookClient
from PIL import Image
from tool_processes import environment

PATH = ROOT / 'docs/notebooks/first_hour.ipynb'
CLIP = "name, weights = 'ViT-B-16', 'openai'"
DEVICES = [
    '',
    pytest.param(
        '0',
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device'),
        ],
    ),
]


def execute(book: nbformat.NotebookNode, folder: Path, device: str = '') -> None:
    """Run all cells in a folder."""
    place = dict(metadata=dict(path=folder))
    client = NotebookClient(book, timeout=600, record_timing=False, resources=place)
    client.execute(env=environment(CUDA_VISIBLE_DEVICES=device))


def shown(cell: nbformat.NotebookNode) -> tuple[str, int]:
    """What a cell prints, and how many pictures it shows."""
    text = ''.join(out.text for out in cell.outputs if out.output_type == 'stream')
    kinds = [set(out.get('data', ())) for out in cell.outputs]
    return text, sum(bool(kind & {'image/png', 'image/jpeg'}) for kind in kinds)


@pytest.mark.parametrize('device', DEVICES)
def test_it_runs_from_top_to_bottom(device, tmp_path):
    """And its last cell once more, with a small CLIP in place of the one that may be missing."""
    committed = nbformat.read(PATH, as_version=4)
    book = copy.deepcopy(committed)
    write_openai_clip(tmp_path / 'clip.pt')
    (last,) = (cell for cell in book.cells if CLIP in cell.source)
    small = f'import open_clip\nopen_clip.get_model_config = lambda _: {small_clip_cfg()}\n'
    source = small + last.source.replace(CLIP, CLIP.replace('openai', str(tmp_path / 'clip.pt')))
    book.cells.append(nbformat.v4.new_code_cell(source))
    execute(book, tmp_path, device)

    pairs = list(zip(book.cells, committed.cells, strict=False))
    pairs = [(cell, before) for cell, before in pairs if cell.cell_type == 'code']
    assert len(pairs) > 6
    for cell, before in pairs:
        if 'varies' not in cell.metadata.get('tags', ()) and not device:
            assert shown(cell) == shown(before), cell.source
    text, pictures = shown(pairs[-2][0])  # the comparison
    assert 'mean IoU of' in text
    assert pictures == 1
    text, pictures = shown(last)
    assert text.startswith('Skipped: CLIP') or pictures == 1
    text, pictures = shown(book.cells[-1])
    assert ' %' in text
    assert pictures == 1


def test_the_file_is_small_and_of_no_machine():
    """Its outputs too."""
    text = PATH.read_text()
    assert len(text) < 300_000
    assert '/tmp' not in text
    assert '/home' not in text


def small(png: str) -> str:
    """A picture as a JPEG of at most 640 columns; both in base64."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert('RGB')
    picture.thumbnail((640, 1000))
    buffer = io.BytesIO()
    picture.save(buffer, 'JPEG', quality=70)
    return base64.b64encode(buffer.getvalue()).decode()


def write() -> None:
    """Run it, and keep its outputs, with small pictures and without the version of Python."""
    book = nbformat.read(PATH, as_version=4)
    language = copy.deepcopy(book.metadata.language_info)
    with TemporaryDirectory() as folder:
        execute(book, Path(folder))
    book.metadata.language_info = language
    for output in (output for cell in book.cells for output in cell.get('outputs', ())):
        if png := output.get('data', {}).pop('image/png', None):
            output.data['image/jpeg'] = small(png)
    nbformat.write(book, PATH)


if __name__ == '__main__':
    write()
