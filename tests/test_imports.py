"""The package has a bottom: nothing imports upward or in a circle."""

import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / 'tools/analysis'))
import import_graph

# from the bottom to the top; what shares a line does not import each other
LAYERS = [
    ['errors', 'version', 'threads', 'compat', 'option_values', 'colors', 'words'],
    ['settings', 'consistency'],
    ['device', 'files', 'image_files', 'config', 'vocabulary', 'tables', 'progress'],
    ['check', 'downloads', 'visualization', 'label_folder', 'class_files'],
    ['models', 'datasets'],
    ['preflight', 'mmseg_apis'],
    ['engine'],
    ['evaluation', 'toyworld'],
    ['components'],
    ['apis', 'utils'],
    ['cli', 'export'],
    ['web', '__main__'],
]


@pytest.fixture(scope='module')
def modules():
    return import_graph.imported_modules(ROOT / 'mmseg_escnet')


def test_layers(modules):
    parts = import_graph.imported_parts(modules)
    height = {part: number for number, layer in enumerate(LAYERS) for part in layer}
    assert parts.keys() == height.keys()
    upward = [
        f'{part} imports {need}'
        for part, needs in parts.items()
        for need in needs
        if height[need] >= height[part]
    ]
    assert not upward


def test_no_circles(modules):
    left = {name: set(needs) for name, needs in modules.items()}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert not left


def test_what_counts_as_an_import(tmp_path):
    package = tmp_path / 'escnet'
    (package / 'deep').mkdir(parents=True)
    sources = {
        '__init__': 'from . import a',
        'a': 'import os\nfrom .deep import b\nif TYPE_CHECKING:\n    from . import c',
        'c': 'def late():\n    import escnet.a',
        'deep/__init__': 'from .b import name',
        'deep/b': 'from ..c import d\nfrom escnet import a',
    }
    for name, text in sources.items():
        (package / f'{name}.py').write_text(text)
    modules = import_graph.imported_modules(package)
    assert modules == {
        'a': {'deep.b'},
        'c': {'a'},
        'deep': {'deep.b'},
        'deep.b': {'c', 'a'},
    }
    assert import_graph.imported_parts(modules) == {'a': {'deep'}, 'c': {'a'}, 'deep': {'a', 'c'}}


def test_the_drawing_is_of_today(modules):
    text = import_graph.mermaid(import_graph.imported_parts(modules))
    assert text in import_graph.DOCUMENT.read_text(encoding='utf-8'), (
        'run: python tools/analysis/import_graph.py --write'
    )
