"""Every command and every snippet of docs/inference.md, in its order."""

import inspect
import re

import pytest
from conftest import ROOT
from tool_processes import run_tool, tool_of

from mmseg_escnet.apis import OpenVocabInferencer, SegmentationResult
from mmseg_escnet.apis.images import MAX_PIXELS
from mmseg_escnet.models.text_encoders import text_cache
from mmseg_escnet.vocabulary import MAX_WORDS

PAGE = (ROOT / 'docs/inference.md').read_text()


def test_the_page_runs(tmp_path, monkeypatch):
    """In a folder that has what a clone has; shell commands one after the other, then Python."""
    (tmp_path / 'data').mkdir()
    for name in ('configs', 'tools', 'data/toyworld'):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    first, *rest = re.findall(r'^```(bash|python)\n(.*?)^```', PAGE, re.DOTALL | re.MULTILINE)
    blocks = [first, *sorted(rest, key=lambda block: block[0] != 'python')]
    assert [kind for kind, _ in blocks].count('python') >= 7
    names, commands = {}, 0
    for kind, content in blocks:
        if kind == 'python':
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr('builtins.print', lambda *_: None)
                exec(content, names)
            continue
        for command in content.replace('\\\n', '').splitlines():
            done = run_tool(*tool_of(command), cwd=tmp_path)
            assert done.returncode == 0, (command, done.stderr[-2000:])
            commands += 1
    assert commands >= 4
    assert isinstance(names['result'], SegmentationResult)
    made = {path.name for path in tmp_path.iterdir()}
    files = {'labels.png', 'labels.json', 'overlay.png', 'scores.png', 'words.yaml'}
    files |= {'inside.png', 'inside.npz', 'wood.png', 'blocks_wood.png', 'blocks_wood.npz'}
    assert files | {'results', 'results2', 'results3'} <= made
    assert (tmp_path / 'results3/labels/000000.png.png').is_file()


def test_what_the_page_says():
    assert f'{MAX_WORDS // 1000} {MAX_WORDS % 1000:03} words' in PAGE
    assert f'{MAX_PIXELS // 1_000_000} million pixels' in PAGE
    assert f'{text_cache.MAX_PHRASES // 1000} 000 phrases are kept' in PAGE
    options = inspect.signature(OpenVocabInferencer.stream).parameters
    assert {'background', 'threshold', 'templates', 'synonyms', 'text_features'} < set(options)
    for target in re.findall(r'\]\(([^)#]+)', PAGE):
        assert (ROOT / 'docs' / target).exists(), target
