"""What is installed is what is here: the wheel, the requirements, the pins, the Makefile."""

import ast
import configparser
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mmseg_escnet

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'mmseg_escnet'

# The distribution that a module comes from, where the names differ.
DISTRIBUTIONS = {
    'PIL': 'pillow',
    'cv2': 'opencv-python',
    'mmcv': 'mmcv-lite',
    'mmseg': 'mmsegmentation',
    'open_clip': 'open_clip_torch',
    'pkg_resources': 'setuptools',
    'griffe': 'mkdocstrings',
    'yapf': 'mmengine',  # which requires it
    'segment_anything': 'segment-anything',
    'sklearn': 'scikit-learn',
    'yaml': 'pyyaml',
}


def declared(section: str, option: str) -> dict[str, Requirement]:
    """A list of requirements from setup.cfg, by canonical name."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg', encoding='utf-8')
    lines = config[section][option].split('\n')
    requirements = [Requirement(line) for line in lines if line.strip()]
    assert requirements
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def installed() -> dict[str, Requirement]:
    """What the package needs at run time; the extra ``lite`` stands for OpenMMLab's libraries."""
    return {
        **declared('options', 'install_requires'),
        **declared('options.extras_require', 'lite'),
    }


def extras(*names: str) -> dict[str, Requirement]:
    """What these extras add."""
    return {
        name: requirement
        for extra in names
        for name, requirement in declared('options.extras_require', extra).items()
    }


def pins() -> dict[str, Requirement]:
    """requirements.txt, by canonical name."""
    lines = (ROOT / 'requirements.txt').read_text(encoding='utf-8').splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith('#')]
    assert requirements
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


# --------------------------------------------------------------------------------------------------
# Wheel and source distribution
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def source(tmp_path_factory) -> Path:
    """A copy to build from: a build leaves files in its source."""
    copy = tmp_path_factory.mktemp('source')
    ignored = shutil.ignore_patterns('__pycache__', '*.egg-info')
    names = ('mmseg_escnet', 'configs', 'tools', 'data/toyworld', 'tests', 'docs', '*.*')
    for name in (*names, 'LICENSE', 'Makefile'):
        for path in ROOT.glob(name):
            if path.name.startswith('.') or path.suffix == '.egg-info':
                continue
            if path.is_dir():
                shutil.copytree(path, copy / path.relative_to(ROOT), ignore=ignored)
            else:
                shutil.copy2(path, copy / path.name)
    return copy


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp('wheel')
    command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation']
    command += ['--no-index', '--quiet', '--wheel-dir', str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (path,) = out.glob('*.whl')
    assert path.name.startswith(f'mmseg_escnet-{mmseg_escnet.__version__}-py3-none-any')
    return zipfile.ZipFile(path)


def files_below(folder: Path, *suffixes: str) -> set[str]:
    """Paths of files relative to the repository."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in folder.rglob('*')
        if path.is_file() and path.suffix in suffixes and '__pycache__' not in path.parts
    }


@pytest.mark.parametrize('suffixes', [('.py',), ('.json', '.yaml', '.yml')])
def test_the_wheel_has_every_file_of_the_package(wheel, suffixes):
    """Modules (a folder without __init__.py would be left out) and vocabularies."""
    wanted = files_below(PACKAGE, *suffixes)
    assert len(wanted) > 5
    assert wanted <= set(wheel.namelist())


@pytest.mark.parametrize('folder', ['configs', 'tools'])
def test_the_wheel_carries_configs_and_tools(wheel, folder):
    wanted = files_below(ROOT / folder, '.py', '.sh', '.yaml', '.yml')
    wanted |= {'model-index.yml', 'data/toyworld/clip.pth', 'data/toyworld/sam.pth'}
    wanted.add('data/toyworld/escnet.pth')
    assert len(wanted) > 3
    assert {f'mmseg_escnet/.mim/{name}' for name in wanted} <= set(wheel.namelist())


def test_the_wheel_has_nothing_else(wheel):
    tops = {name.split('/')[0] for name in wheel.namelist()}
    assert tops == {'mmseg_escnet', f'mmseg_escnet-{mmseg_escnet.__version__}.dist-info'}
    assert not [name for name in wheel.namelist() if '__pycache__' in name]


def test_the_wheels_metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith('.dist-info/METADATA'))
    metadata = wheel.read(name).decode().split('\n\n')[0]
    assert 'Requires-Python: <3.14,>=3.10' in metadata
    assert re.search(r'^License(-Expression)?: Apache-2.0$', metadata, re.MULTILINE)
    needs = list(map(Requirement, re.findall(r'^Requires-Dist: (.+)$', metadata, re.MULTILINE)))

    def openmmlab(extra: str) -> set[str]:
        context = {'extra': extra}
        chosen = {
            need.name for need in needs if need.marker is None or need.marker.evaluate(context)
        }
        return {name for name in chosen if name.startswith(('mm', 'onedl'))}

    # pip puts nothing over a full mmcv, or over OpenMMLab's maintained fork
    assert openmmlab('') == set()
    assert openmmlab('lite') == {'mmengine', 'mmsegmentation', 'mmcv-lite'}
    assert openmmlab('openmmlab') == {'mmengine', 'mmsegmentation'}
    assert openmmlab('onedl') == {'onedl-mmengine', 'onedl-mmsegmentation', 'onedl-mmcv'}


def test_the_extras_with_and_without_mmcv_lite_agree():
    lite = extras('lite')
    del lite['mmcv-lite']
    assert lite == extras('openmmlab')


def test_the_source_distribution_builds_the_same_wheel(source, tmp_path):
    code = 'import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])'
    command = [sys.executable, '-c', code, str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (path,) = tmp_path.glob('*.tar.gz')
    with tarfile.open(path) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    wanted = files_below(PACKAGE, '.py', '.json') | files_below(ROOT / 'configs', '.py')
    wanted |= files_below(ROOT / 'tools', '.py') | files_below(ROOT / 'tests', '.py')
    wanted |= {'setup.py', 'setup.cfg', 'pyproject.toml', 'requirements.txt', 'LICENSE', 'Makefile'}
    wanted |= {'model-index.yml', 'configs/escnet/metafile.yaml', 'data/toyworld/escnet.pth'}
    assert wanted <= names


# --------------------------------------------------------------------------------------------------
# Requirements and pins
# --------------------------------------------------------------------------------------------------


def imported_modules(path: Path) -> set[str]:
    """Top-level names of the modules a file imports, whether or not it could do without.

    Imports inside ``try: ... except ImportError`` are the file's own business.
    """
    tree = ast.parse(path.read_text(encoding='utf-8'))
    optional = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            caught = {
                name.id for h in node.handlers for name in ast.walk(h) if isinstance(name, ast.Name)
            }
            if caught & {'ImportError', 'ModuleNotFoundError'}:
                optional.update(
                    id(inner) for statement in node.body for inner in ast.walk(statement)
                )
    modules = set()
    for node in ast.walk(tree):
        if id(node) in optional:
            continue
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.add(node.module)
    return {module.partition('.')[0] for module in modules}


def is_script_neighbour(module: str, path: Path) -> bool:
    """Whether a script's import is of a file beside it, or of one above it (tests/helpers.py)."""
    if PACKAGE in path.parents:
        return False  # the package imports its own parts relatively
    folders = [folder for folder in path.parents if ROOT in (folder, *folder.parents)]
    return any(
        (folder / f'{module}.py').is_file() or (folder / module).is_dir() for folder in folders
    )


def third_party(*folders: str) -> set[str]:
    """Distributions that the files below these folders import."""
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob('*.py')):
        for module in imported_modules(path) - set(sys.stdlib_module_names):
            if not is_script_neighbour(module, path):
                found.add(canonicalize_name(DISTRIBUTIONS.get(module, module)))
    return found - {'mmseg-escnet'}


def test_everything_imported_is_declared():
    imported = third_party('mmseg_escnet', 'tools')
    assert {'torch', 'numpy', 'mmengine', 'mmsegmentation', 'open-clip-torch'} <= imported
    assert imported - set(installed()) - set(extras('export', 'shapes')) == set()


def test_everything_the_tests_import_is_declared():
    imported = third_party('tests')
    assert 'pytest' in imported
    allowed = {**installed(), **extras('test', 'docs', 'export', 'shapes')}
    tools = {canonicalize_name(path.stem) for path in (ROOT / 'tools').rglob('*.py')}
    assert imported - set(allowed) - tools == set()


def test_the_pins_are_exact_and_leave_cuda_to_torch():
    for name, pin in pins().items():
        (specifier,) = pin.specifier
        assert specifier.operator == '=='
        assert '*' not in specifier.version
        assert not name.startswith(('nvidia', 'triton'))


def test_the_pins_satisfy_every_range():
    pinned = pins()
    wanted = {**installed(), **extras('test', 'web', 'docs', 'export', 'hooks', 'shapes')}
    for name, requirement in wanted.items():
        assert name in pinned, f'{name} is not pinned'
        (specifier,) = pinned[name].specifier
        assert requirement.specifier.contains(specifier.version), f'{name} {specifier.version}'
        assert pinned[name].marker is None, f'{name} is needed everywhere'


def test_the_pinned_torch_and_torchvision_are_a_pair():
    minor = {}
    for name in ('torch', 'torchvision'):
        (specifier,) = pins()[name].specifier
        minor[name] = int(specifier.version.split('.')[1])
    assert minor['torchvision'] == minor['torch'] + 15


# --------------------------------------------------------------------------------------------------
# Makefile
# --------------------------------------------------------------------------------------------------


def make(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    if shutil.which('make') is None:
        pytest.skip('no make here')
    for name in ('Makefile', 'requirements.txt', 'setup.cfg', 'setup.py', 'pyproject.toml'):
        shutil.copy2(ROOT / name, folder)
    command = ['make', '--no-print-directory', *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_make_help_lists_the_targets(tmp_path):
    out = make('help', folder=tmp_path).stdout
    for target in ('demo', 'test', 'lint', 'format', 'check', 'clean', 'help'):
        assert f'make {target} ' in out


def test_make_says_which_python_it_wants(tmp_path):
    """One that does not run and one of the wrong version: neither will do, nothing is made."""
    old = tmp_path / 'python3.8'
    old.write_text('#!/bin/sh\nexit 1\n')
    old.chmod(0o755)
    done = make('check', f'PYTHON={tmp_path}/missing {old}', folder=tmp_path)
    assert done.returncode != 0
    assert 'no Python 3.10, 3.11 or 3.12' in done.stderr
    assert str(old) in done.stderr
    assert not (tmp_path / '.venv').exists()
