"""The check of the environment, and what a failing import of the package says."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmseg_escnet import check, environment
from mmseg_escnet.environment import Requirement, parse_version

ROOT = Path(__file__).resolve().parents[1]
GOOD = {
    'torch': '2.8.0',
    'torchvision': '0.23.0',
    'mmengine': '0.10.7',
    'mmcv-lite': '2.1.0',
    'mmsegmentation': '1.2.2',
    'open_clip_torch': '3.2.0',
    'segment-anything': '1.0',
    'timm': '1.0.31',
    'numpy': '2.2.6',
    'opencv-python': '4.12.0.88',
    'pillow': '12.3.0',
    'scipy': '1.15.3',
    'matplotlib': '3.10.9',
    'pycocotools': '2.0.11',
    'pyyaml': '6.0.3',
    'safetensors': '0.8.0',
    'huggingface_hub': '2.4.0',
    'prettytable': '3.18.0',
    'rich': '15.0.0',
    'tqdm': '4.70.1',
    'ftfy': '6.3.1',
    'regex': '2026.9.29',
    'setuptools': '80.9.0',
}


@pytest.fixture
def world(monkeypatch):
    """An environment made of paper: versions by distribution, and what the subprocess reports."""
    versions = dict(GOOD)
    probed = dict(devices=['cpu (2 threads)'], torch_version='2.8.0+cpu')

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, 'version', version)
    monkeypatch.setattr(environment, '_probe', lambda: probed)
    monkeypatch.setattr(environment.platform, 'python_version', lambda: '3.11.7')
    return versions, probed


def only_problem():
    problems = environment.inspect_environment().problems
    assert len(problems) == 1, problems
    return problems[0]


@pytest.mark.parametrize(
    ('version', 'numbers'),
    [('2.8.0+cu128', (2, 8)), ('1.0', (1,)), ('2.2.0rc1', (2, 2)), ('2026.9.29', (2026, 9, 29))],
)
def test_parse_version(version, numbers):
    assert parse_version(version) == numbers


@pytest.mark.parametrize(
    ('version', 'accepted'),
    [('2.0.1', False), ('2.1', True), ('2.1.0', True), ('2.15.0+cpu', True), ('2.16.0', False)],
)
def test_ranges_compare_numbers_not_text(version, accepted):
    assert Requirement('torch', '2.1', '2.16').accepts(version) is accepted


def test_all_right(world, capsys):
    assert check.main() == 0
    out = capsys.readouterr().out
    assert 'All right.' in out
    for name in GOOD:
        assert name.removesuffix('-lite') in out
    assert 'cpu (2 threads)' in out


def test_columns_are_aligned(world):
    lines = str(environment.inspect_environment()).splitlines()
    table = lines[: lines.index('')]
    column = table[0].index('supported')
    assert len(table) == len(GOOD) + 3  # heading, python, device
    assert all(line[column - 1] == ' ' and line[column] != ' ' for line in table)


@pytest.mark.parametrize('name', ['ftfy', 'regex', 'timm', 'setuptools'])
def test_a_missing_package_and_its_remedy(world, capsys, name):
    del world[0][name]
    assert only_problem().what.startswith(f'{name} is not installed')
    assert f"pip install '{name}>=" in only_problem().remedy
    assert check.main() == 1
    assert 'MISSING' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('name', 'version'),
    [('setuptools', '82.0.0'), ('numpy', '1.24.4'), ('mmsegmentation', '1.1.0')],
)
def test_an_unsupported_version(world, name, version):
    world[0][name] = version
    problem = only_problem()
    assert problem.what.startswith(f'{name} {version} is not supported')
    assert problem.remedy.startswith('pip install')


def test_an_unsupported_python(world, monkeypatch):
    monkeypatch.setattr(environment.platform, 'python_version', lambda: '3.13.0')
    assert 'python 3.13.0 is not supported' in only_problem().what


def test_headless_opencv_will_do(world):
    world[0]['opencv-python-headless'] = world[0].pop('opencv-python')
    assert not environment.inspect_environment().problems


def test_no_mmcv(world):
    del world[0]['mmcv-lite']
    assert only_problem().remedy == "pip install 'mmcv-lite>=2.0.1,<2.2'"


def test_full_mmcv_will_do(world):
    world[0]['mmcv'] = world[0].pop('mmcv-lite')
    report = environment.inspect_environment()
    assert not report.problems
    assert 'ok, full' in str(report)


def test_both_mmcvs_are_one_too_many(world):
    world[0]['mmcv'] = '2.1.0'
    assert 'both installed' in only_problem().what
    assert only_problem().remedy.startswith('pip uninstall -y mmcv mmcv-lite && ')


@pytest.mark.parametrize('name', ['mmcv', 'mmcv-lite'])
def test_an_mmcv_that_mmsegmentation_refuses(world, name):
    del world[0]['mmcv-lite']
    world[0][name] = '2.2.0'
    assert f'{name} 2.2.0 is not supported' in only_problem().what
    assert only_problem().remedy.startswith(f'pip uninstall -y {name} && ')


@pytest.mark.parametrize(
    ('torch', 'pair'),
    [
        ('2.8.0', "'torch==2.8.*' torchvision"),
        ('2.10.0', "'torch==2.10.*' torchvision"),
        ('2.16.0', 'torch==2.8.0 torchvision==0.23.0'),  # itself unsupported
    ],
)
def test_the_matching_pair(world, torch, pair):
    world[0]['torch'] = torch
    assert environment._matching_pair() == f'pip install {pair}'


def test_torch_and_torchvision_of_different_builds(world):
    world[1]['torchvision'] = 'RuntimeError: operator torchvision::nms does not exist'
    problem = only_problem()
    assert 'torch 2.8.0+cpu and torchvision 0.23.0 are not a matching pair' in problem.what
    assert "'torch==2.8.*' torchvision" in problem.remedy


def test_opencv_without_its_system_library(world):
    world[1]['cv2'] = 'ImportError: libGL.so.1: cannot open shared object file'
    assert 'opencv-python-headless' in only_problem().remedy


def test_torch_built_for_another_numpy(world):
    world[0]['torch'], world[0]['torchvision'] = '2.1.2', '0.16.2'
    world[1]['numpy bridge'] = 'Numpy is not available'
    assert only_problem().remedy == "pip install 'numpy>=1.26,<2'"


def test_a_torch_that_kills_python(monkeypatch):
    monkeypatch.setattr(environment, '_PROBE', 'import os; os._exit(132)')
    assert 'status 132' in environment._probe()['crash']
    assert any('status 132' in p.what for p in environment.inspect_environment().problems)


def test_the_probe_of_this_environment():
    found = environment._probe()
    assert found['devices']
    assert not {'torch', 'torchvision', 'cv2', 'numpy bridge', 'crash'} & set(found)


# --------------------------------------------------------------------------------------------------
# Importing the package where something is missing
# --------------------------------------------------------------------------------------------------


def test_a_failed_import_names_the_cure(world):
    del world[0]['ftfy']
    original = ModuleNotFoundError("No module named 'ftfy'")
    with pytest.raises(ImportError, match=r"pip install 'ftfy>=6\.1'") as caught:
        environment.explain_import_error(original)
    assert caught.value.__cause__ is original


def test_an_error_of_our_own_is_not_blamed_on_the_environment(world):
    original = AttributeError('a slip of ours')
    with pytest.raises(AttributeError) as caught:
        environment.explain_import_error(original)
    assert caught.value is original


def test_components_that_do_not_import_for_no_reason_that_we_know(world, monkeypatch, capsys):
    def fail(name, package):
        raise AttributeError(f'a slip of ours in {package}{name}')

    monkeypatch.setattr(check.importlib, 'import_module', fail)
    assert check.main() == 1
    assert 'a slip of ours in mmseg_escnet.components' in capsys.readouterr().out


def run(*arguments, path: Path):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_real_thing_with_a_torchvision_that_does_not_import(tmp_path):
    """In a process of its own: a package that fails like the wrong torchvision stands before it."""
    (tmp_path / 'torchvision').mkdir()
    code = "raise RuntimeError('operator torchvision::nms does not exist')\n"
    (tmp_path / 'torchvision' / '__init__.py').write_text(code)

    assert run('-c', 'import mmseg_escnet', path=tmp_path).returncode == 0
    checked = run('-m', 'mmseg_escnet.check', path=tmp_path)
    assert checked.returncode == 1
    assert checked.stderr == ''
    assert 'are not a matching pair' in checked.stdout

    config = 'configs/toyworld/escnet_toy.py'
    build = f'from mmengine.config import Config; cfg = Config.fromfile({config!r}); ' + (
        'from mmseg.registry import DATASETS; DATASETS.build(cfg.test_dataloader.dataset)'
    )
    for command in (
        ('-c', build),
        ('tools/test.py', config, 'checkpoint.pth'),
    ):
        imported = run(*command, path=tmp_path)
        assert imported.returncode == 1, command
        said = 'ImportError: mmseg_escnet cannot be imported here'
        assert imported.stderr.count(said) == 1, (command, imported.stderr)
        assert imported.stderr.count('are not a matching pair') == 1, command
