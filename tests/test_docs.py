"""The site of the documentation is built without a warning, holds everything, and its code runs."""

import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import ROOT
from mkdocstrings import Inventory
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample

from mmseg_escnet.models import PseudoPromptGenerator
from mmseg_escnet.version import __version__

DOCS = ROOT / 'docs'
PAGE = (DOCS / 'extending.md').read_text()
PACKAGES = [
    'mmseg_escnet',
    'mmseg_escnet.apis',
    'mmseg_escnet.datasets',
    'mmseg_escnet.datasets.transforms',
    'mmseg_escnet.engine',
    'mmseg_escnet.evaluation',
    'mmseg_escnet.models',
    'mmseg_escnet.models.backbones',
    'mmseg_escnet.models.layers',
    'mmseg_escnet.models.necks',
    'mmseg_escnet.models.text_encoders',
    'mmseg_escnet.visualization',
]
RUN = ['getting_started.md', 'training.md', 'vocabularies.md', 'extending.md', 'faq.md']


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The site; building it takes some seconds."""
    folder = tmp_path_factory.mktemp('site')
    done = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', folder],
        cwd=ROOT,
        env=os.environ | {'NO_MKDOCS_2_WARNING': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'WARNING' not in done.stderr, done.stderr
    return folder


def test_every_page_is_on_the_site_and_in_its_navigation(site):
    front = (site / 'index.html').read_text()
    linked = re.findall(r'<a href="([^"]*)" class="md-nav__link', front)
    pages = [path.relative_to(DOCS).with_suffix('.html') for path in DOCS.rglob('*.md')]
    assert len(pages) > 20
    for page in pages:
        assert (site / page).is_file()
        assert page.as_posix() in linked, page


def test_every_public_name_is_in_the_api(site):
    with (site / 'objects.inv').open('rb') as file:
        documented = set(Inventory.parse_sphinx(file))
    checked = 0
    for package in map(importlib.import_module, PACKAGES):
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                assert f'{value.__module__}.{value.__qualname__}' in documented
                assert value.__module__ in documented
                checked += 1
    assert checked > 60


def test_the_search_works_from_the_disk(site):
    """Its index is a script, since pages from the disk may not read files; nothing is loaded."""
    index = (site / 'search/search_index.js').read_text()
    assert index.startswith('var __index = {')
    assert 'Distinguishable colours' in index
    for page in ('index.html', 'api/models.html'):
        scripts = re.findall(r'<script[^>]* src="?([^" >]+)', (site / page).read_text())
        files = [(site / page).parent / script for script in scripts]
        assert 'iframe-worker.js' in {file.name for file in files}
        assert all(file.is_file() for file in files), scripts


def test_marks_of_sphinx_do_not_show(site):
    pages = list((site / 'api').glob('*.html'))
    assert len(pages) > 5
    for page in pages:
        assert not re.search(r':[a-z]+:<code>|<p>::</p>', page.read_text()), page
    assert '<code>VocabularyHook</code> passes on' in (site / 'api/models.html').read_text()


def test_links_to_other_files_of_the_repository(site):
    faults = (site / 'faults.html').read_text()
    assert 'href="repository/SECURITY.html"' in faults
    assert 'Untrusted files' in (site / 'repository/SECURITY.html').read_text()
    # from there back to a page, and to the front page
    assert 'href="../faults.html"' in (site / 'repository/SECURITY.html').read_text()
    assert 'href="index.html#your-own-words"' in (site / 'inference.html').read_text()
    assert 'k-auto' in (site / 'repository/configs/escnet/ablations.html').read_text()


def test_the_site_asks_no_other_machine_for_anything(site):
    pages = list(site.rglob('*.html'))
    assert len(pages) > 20
    for page in pages:
        found = re.findall(r'<(?:script|img|iframe)[^>]*src="?(?:https?:)?//', page.read_text())
        found += re.findall(r'<link[^>]*rel="?(?:stylesheet|preconnect)[^>]*//', page.read_text())
        assert not found, page


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder that has what a clone has, to write into; drawn scenes as the pages make them."""
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    for folder in ('data', 'data/photographs'):
        (tmp_path / folder).mkdir()
    (tmp_path / 'data/photographs/names.txt').write_text('boat | ship\nwater\n')
    for name in ('tools', 'data/toyworld'):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    subprocess.run(
        [sys.executable, 'tools/toyworld/make_scenes.py', '--out', 'scenes', '--train', '1']
        + ['--val', '1', '--workers', '1'],
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        check=True,
        capture_output=True,
    )
    return tmp_path


@pytest.mark.parametrize('page', RUN)
def test_code_of_the_pages_runs(page, clone):
    """Blocks that begin with the name of a file are written there; the others run in order."""
    text = (DOCS / page).read_text()
    blocks = re.findall(r'^```python\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
    assert blocks
    names = {}
    for block in blocks:
        if file := re.match(r'# (\S+\.py)\n', block):
            path = clone / file[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)
            continue
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr('builtins.print', lambda *_: None)
            exec(block, names)
    for path in (clone / 'configs/mine').glob('*.py'):
        _check_config(Config.fromfile(path))


def _check_config(cfg: Config) -> None:
    """All of it can be built; a miniature one also takes a training step."""
    for phase in ('train', 'val', 'test'):
        DATASETS.build(cfg[f'{phase}_dataloader'].dataset | dict(lazy_init=True))
    small = 'toyworld' in cfg.model.backbone.pretrained
    with torch.device('cpu' if small else 'meta'):
        model = MODELS.build(cfg.model)
    if not small:
        return
    model.set_vocabulary(['red circle', 'wood', 'water'])
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(3, (1, 96, 96))))
    data = dict(inputs=[torch.randint(256, (3, 96, 96))], data_samples=[sample])
    losses = model(**model.data_preprocessor(data, training=True), mode='loss')
    wanted = cfg.model.decode_head.loss_decode
    names = {name for name in losses if 'loss' in name}
    assert len(names) == (len(wanted) if isinstance(wanted, list) else 1)
    sum(losses[name] for name in names).backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert gradients
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_the_part_of_the_page_is_the_generator_with_one_object():
    block = re.search(r'^```python\n(# my_parts.py\n.*?)^```', PAGE, re.DOTALL | re.MULTILINE)[1]
    names = {}
    exec(block.replace('@MODELS.register_module()', ''), names)
    correlation, scale = torch.rand(2, 3, 5, 7) / 10, torch.tensor(100.0)
    ours = names['PeakPrompts']()(correlation, scale)
    reference = PseudoPromptGenerator(num_objects=1)(correlation, scale)
    for field, value in vars(reference).items():
        torch.testing.assert_close(getattr(ours, field), value)


def test_citation_and_changes_are_of_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == __version__
    assert '2411.14723' in citation['preferred-citation']['url']
    assert f'\n## [{__version__}]' in (ROOT / 'CHANGELOG.md').read_text()


def test_commits_are_checked_by_the_linters_of_continuous_integration():
    hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos'][0]['hooks']
    assert [hook['entry'] for hook in hooks] == ['make lint']
    assert re.search(r'^test: lint', (ROOT / 'Makefile').read_text(), re.MULTILINE)
