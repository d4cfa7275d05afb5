"""The check of the environment, and the message of a failed import of the package."""

import importlib.metadata
import os
import subprocess
import sys
from email.message import Message
from pathlib import Path

import pytest

from mmseg_escnet import check

ROOT = Path(__file__).resolve().parents[1]
METADATA = Message()
METADATA['Requires-Python'] = '>=3.10,<3.14'
for line in (
    'torch>=2.1,<2.16',
    'torchvision>=0.16,<0.30',
    'opencv-python>=4.11',
    'ftfy>=6.1',
    'mmengine>=0.10.7,<1; extra == "lite"',
    'mmcv-lite<2.2,>=2.0.1; extra == "lite"',
    'setuptools<82,>=64; extra == "lite"',
    'onedl-mmengine>=0.10.12,<1; extra == "onedl"',
    'onedl-mmcv>=2.3.6,<3; extra == "onedl"',
    'gradio>=6; extra == "web"',
):
    METADATA['Requires-Dist'] = line
GOOD = {
    'torch': '2.8.0+cpu',
    'torchvision': '0.23.0',
    'mmengine': '0.10.7',
    'opencv-python': '4.12.0.88',
    'ftfy': '6.3.1',
    'setuptools': '80.9.0',
    'mmcv-lite': '2.1.0',
}
ONEDL = {'onedl-mmengine': '0.10.12', 'onedl-mmcv': '2.3.6'}


@pytest.fixture
def world(monkeypatch):
    """An environment made of paper: versions by distribution, and errors of imports by module."""
    versions, errors = dict(GOOD), {}

    def find(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, 'version', find)
    monkeypatch.setattr(importlib.metadata, 'metadata', lambda name: METADATA)
    monkeypatch.setattr(check, '_probe', lambda: (errors, ['cpu (2 threads)']))
    monkeypatch.setattr(check.platform, 'python_version', lambda: '3.11.7')
    return versions, errors


def only_problem():
    (problem,) = check.inspect_environment()[1]
    return problem


def test_no_problems(world, capsys):
    assert check.main() == 0
    out = capsys.readouterr().out
    assert out.endswith('No problems found.\n')
    for name, version in GOOD.items():
        assert name in out
        assert version in out
    assert 'cpu (2 threads)' in out
    assert 'gradio' not in out


@pytest.mark.parametrize('name', ['ftfy', 'mmengine', 'mmcv-lite'])
def test_a_missing_package_and_its_remedy(world, capsys, name):
    del world[0][name]
    assert only_problem().what == f'{name} is not installed'
    assert only_problem().remedy.startswith(f"pip install '{name}")
    assert check.main() == 1
    assert 'MISSING' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('name', 'version'), [('setuptools', '82.0.0'), ('torch', '2.16.0'), ('mmengine', '0.10.6')]
)
def test_an_unsupported_version(world, name, version):
    world[0][name] = version
    problem = only_problem()
    assert problem.what.startswith(f'{name} {version} is not supported (')
    assert problem.remedy.startswith('pip install')


def test_an_unsupported_python(world, monkeypatch):
    monkeypatch.setattr(check.platform, 'python_version', lambda: '3.14.0')
    assert 'python 3.14.0 is not supported' in only_problem().what


def test_without_metadata(world, monkeypatch):
    """Run from a clone that was not installed."""

    def fail(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'metadata', fail)
    assert 'not installed, so the versions it needs are unknown' in only_problem().what


def test_headless_opencv_will_do(world):
    world[0]['opencv-python-headless'] = world[0].pop('opencv-python')
    assert not check.inspect_environment()[1]


def test_full_mmcv_will_do(world):
    world[0]['mmcv'] = world[0].pop('mmcv-lite')
    rows, problems = check.inspect_environment()
    assert not problems
    assert any(row[:2] == ('mmcv', '2.1.0') for row in rows)


def test_both_mmcvs_are_one_too_many(world):
    world[0]['mmcv'] = '2.1.0'
    assert 'mmcv 2.1.0 and mmcv-lite 2.1.0 are installed over each other' in only_problem().what
    assert only_problem().remedy.startswith('pip uninstall -y mmcv mmcv-lite && ')


@pytest.fixture
def fork(world):
    """The world with OpenMMLab's maintained fork, whose setuptools does not matter."""
    for name in ('mmengine', 'mmcv-lite', 'setuptools'):
        del world[0][name]
    world[0].update(ONEDL)
    return world[0]


def test_the_maintained_fork_will_do_and_is_named(fork):
    rows, problems = check.inspect_environment()
    assert not problems
    assert ONEDL.items() <= {(name, version) for name, version, _, _ in rows}
    assert not {'mmengine', 'mmcv-lite', 'setuptools'} & {row[0] for row in rows}


def test_the_fork_over_the_original(fork):
    """As ``pip install`` of an extra over the other leaves it, without a word."""
    fork['mmengine'] = '0.10.7'
    both = 'mmengine 0.10.7 and onedl-mmengine 0.10.12 are installed over each other, in one folder'
    assert only_problem().what == both
    uninstall, install = only_problem().remedy.split(' && ')
    assert uninstall == 'pip uninstall -y mmengine onedl-mmengine'
    assert install == "pip install 'onedl-mmengine<1,>=0.10.12'"
    assert 'OVERWRITTEN' in {row[3] for row in check.inspect_environment()[0]}


def test_half_of_the_fork(fork):
    """The other half is of the original: its place has to be cleared first."""
    del fork['onedl-mmcv']
    fork['mmcv-lite'] = '2.1.0'
    assert only_problem().what == 'onedl-mmcv is not installed'
    uninstall_first = "pip uninstall -y mmcv-lite && pip install 'onedl-mmcv<"
    assert only_problem().remedy.startswith(uninstall_first)


def test_an_mmcv_that_mmsegmentation_refuses(world):
    del world[0]['mmcv-lite']
    world[0]['mmcv'] = '2.2.0'
    assert 'mmcv 2.2.0 is not supported' in only_problem().what
    assert only_problem().remedy.startswith('pip uninstall -y mmcv && ')


@pytest.mark.parametrize(
    ('torch', 'pair'),
    [
        ('2.8.0+cpu', "'torch==2.8.*' torchvision"),
        ('2.10.0', "'torch==2.10.*' torchvision"),
        ('2.16.0', 'torch==2.8.0 torchvision==0.23.0'),  # itself unsupported
    ],
)
def test_the_matching_pair(world, torch, pair):
    world[0]['torch'] = torch
    del world[0]['torchvision']
    assert check.inspect_environment()[1][-1].remedy == f'pip install {pair}'


def test_torch_and_torchvision_of_different_builds(world):
    world[1]['torchvision'] = 'RuntimeError: operator torchvision::nms does not exist'
    problem = only_problem()
    assert 'torch 2.8.0+cpu and torchvision 0.23.0 are not a matching pair' in problem.what
    assert "'torch==2.8.*' torchvision" in problem.remedy


def test_opencv_without_its_system_library(world):
    world[1]['cv2'] = 'ImportError: libGL.so.1: cannot open shared object file'
    assert 'opencv-python-headless' in only_problem().remedy


def test_torch_built_for_another_numpy(world):
    world[1]['numpy'] = 'Numpy is not available'
    assert only_problem().remedy == "pip install 'numpy>=1.26,<2'"


def test_a_torch_that_kills_python(monkeypatch):
    monkeypatch.setattr(check, '_PROBE', 'import os; os._exit(132)')
    assert any('status 132' in problem.what for problem in check.inspect_environment()[1])


def test_the_probe_of_this_environment():
    errors, devices = check._probe()
    assert errors == {}
    assert devices[0].startswith('c')


# --------------------------------------------------------------------------------------------------
# Importing the package where something is missing
# --------------------------------------------------------------------------------------------------


def test_a_failed_import_names_the_cure(world):
    del world[0]['ftfy']
    original = ModuleNotFoundError("No module named 'ftfy'")
    with pytest.raises(ImportError, match=r"pip install 'ftfy>=6\.1'") as caught:
        check.explain_import_error(original)
    assert caught.value.__cause__ is original


def test_an_error_of_our_own_is_not_blamed_on_the_environment(world):
    original = AttributeError('a slip of ours')
    with pytest.raises(AttributeError) as caught:
        check.explain_import_error(original)
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
        message = 'ImportError: mmseg_escnet cannot be imported here'
        assert imported.stderr.count(message) == 1, (command, imported.stderr)
        assert imported.stderr.count('are not a matching pair') == 1, command
