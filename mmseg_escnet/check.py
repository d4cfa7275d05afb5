"""``mmseg-escnet check``: is everything installed that ESC-Net needs?

Compares the installed versions with the requirements in the package's own metadata, and tests in a
subprocess whether compiled code loads, which versions cannot tell. Exits with status 0 if no
problem was found, 1 otherwise. It runs in a broken environment too.
"""

import importlib
import json
import platform
import subprocess
import sys
import traceback
from contextlib import suppress
from importlib import metadata
from typing import NamedTuple, NoReturn

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from .version import __version__

_OPENCV = ('python-headless', 'contrib-python', 'contrib-python-headless')
# other distributions of the same modules, which pip does not accept in their place
_ALTERNATIVES = {
    'mmengine': ['mmengine-lite'],
    'mmcv-lite': ['mmcv'],  # with compiled operators
    'opencv-python': [f'opencv-{flavour}' for flavour in _OPENCV],
}
# those of OpenMMLab and of its maintained fork: pip installs the one over the other, in one folder
_OPENMMLAB = (
    ('mmengine', 'mmengine-lite', 'onedl-mmengine'),
    ('mmsegmentation', 'onedl-mmsegmentation'),
    ('mmcv', 'mmcv-lite', 'onedl-mmcv'),
)
# In a subprocess: a failed import breaks later ones in the same process, and a library built for
# another machine can crash it.
_PROBE = """
import importlib, json, warnings
warnings.simplefilter('ignore')
errors, devices = {}, ['unknown']
for name in ('torch', 'torchvision', 'cv2'):
    try:
        importlib.import_module(name)
    except Exception as error:
        if getattr(error, 'name', None) != name:
            errors[name] = f'{type(error).__name__}: {error}'
try:
    import torch
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    devices = [f'cuda:{i} {gpu.name} ({gpu.total_memory >> 30} GiB)' for i, gpu in enumerate(gpus)]
    devices = devices or [f'cpu ({torch.get_num_threads()} threads)']
    import numpy
    torch.zeros(1).numpy()
except RuntimeError as error:
    errors['numpy'] = str(error)
except Exception:
    pass
print(json.dumps([errors, devices]))
"""


class Problem(NamedTuple):
    """What is wrong, and the command that fixes it."""

    what: str
    remedy: str


def main() -> int:
    """Print the report; return the exit status."""
    print(f'mmseg_escnet {__version__} on {platform.platform()}\n')
    rows, problems = inspect_environment()
    with suppress(ImportError):  # a missing prettytable is itself among the problems
        from .tables import table

        print(table(('package', 'installed', 'supported', 'status'), rows, align='l'), end='\n\n')
    print(_describe(problems) if problems else 'No problems found.')
    if problems:
        return 1
    try:
        importlib.import_module('.components', __package__)
    except Exception as error:
        print('\nHowever, importing mmseg_escnet.components fails:\n')
        traceback.print_exception(error, file=sys.stdout)
        return 1
    return 0


def explain_import_error(error: Exception) -> NoReturn:
    """Raise the error with which importing the components failed, with the remedy in its message.

    Raises:
        ImportError: If something is missing or unsupported; the message lists all of it.
        Exception: ``error`` itself, if the environment is not to blame.
    """
    _, problems = inspect_environment()
    if not problems:
        raise error
    message = f'mmseg_escnet cannot be imported here: {error}\n\n{_describe(problems)}'
    raise ImportError(message) from error


def inspect_environment() -> tuple[list[tuple[str, str, str, str]], list[Problem]]:
    """Compare versions with the requirements, and load compiled code; takes some seconds.

    Returns:
        Rows of a table (package, installed, supported, status), and the problems.
    """
    errors, devices = _probe()
    own = _requirements()
    pair = _install_torch(own.get('torch'))
    rows, problems = [], _import_failures(errors, pair)
    if not own:
        what = 'mmseg_escnet itself is not installed, so the versions it needs are unknown'
        problems.append(Problem(what, "pip install -e '.[lite]'   (in the clone)"))
    for name, wanted in own.items():
        found = _installed(name, *_ALTERNATIVES.get(name, ()))
        remedy = pair if name in ('torch', 'torchvision') else f"pip install '{name}{wanted}'"
        if name == 'python':
            found, remedy = {name: platform.python_version()}, f'use a Python {wanted}'
        rivals = _installed(*next((group for group in _OPENMMLAB if name in group), ()))
        if rivals.keys() - {name}:
            remedy = f'pip uninstall -y {" ".join(rivals)} && {remedy}'
        name, version = next(iter(found.items()), (name, None))
        status, what = 'ok', ''
        if len(rivals) > 1:
            both = ' and '.join(f'{rival} {version}' for rival, version in rivals.items())
            status, what = 'OVERWRITTEN', f'{both} are installed over each other, in one folder'
        elif version is None:
            status, what = 'MISSING', f'{name} is not installed'
        elif not wanted.contains(version, prereleases=True):
            status, what = 'UNSUPPORTED', f'{name} {version} is not supported ({wanted})'
        if what:
            problems.append(Problem(what, remedy))
        rows.append((name, version or '-', str(wanted), status))
    return [*rows, ('device', ', '.join(devices), 'any', '')], problems


def _requirements() -> dict[str, SpecifierSet]:
    """Requirements by name, with Python and OpenMMLab's; empty if the package is not installed.

    The libraries are those of the fork (the extra ``onedl``) where any of it is installed.
    """
    try:
        own = metadata.metadata('mmseg_escnet')
    except metadata.PackageNotFoundError:
        return {}
    extra = 'onedl' if _installed(*(group[-1] for group in _OPENMMLAB)) else 'lite'
    needed = map(Requirement, own.get_all('Requires-Dist'))
    return {'python': SpecifierSet(own['Requires-Python'])} | {
        requirement.name: requirement.specifier
        for requirement in needed
        if requirement.marker is None or requirement.marker.evaluate({'extra': extra})
    }


def _installed(*names: str) -> dict[str, str]:
    """Those of these distributions that are installed, and their versions."""
    versions = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _install_torch(supported: SpecifierSet | None) -> str:
    """The command that installs a matching pair: torchvision requires its version of torch."""
    version = _installed('torch').get('torch')
    if version and supported and supported.contains(version, prereleases=True):
        major, minor = Version(version).release[:2]
        return f"pip install 'torch=={major}.{minor}.*' torchvision"
    return 'pip install torch==2.8.0 torchvision==0.23.0'


def _probe() -> tuple[dict[str, str], list[str]]:
    """Import errors by module, and the devices."""
    command = [sys.executable, '-c', _PROBE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        crash = f'Python ended with status {done.returncode}. {done.stderr[-300:]}'
        return {'torch': crash}, ['unknown']
    return json.loads(done.stdout.splitlines()[-1])


def _import_failures(errors: dict[str, str], pair: str) -> list[Problem]:
    """Installed packages whose compiled code does not load."""
    problems = []
    names = ('torch', 'torchvision', 'numpy')
    torch, vision, numpy = map(_installed(*names).get, names)
    if error := errors.get('torch'):
        problems.append(Problem(f'torch does not import: {error}', pair))
    elif torch and (error := errors.get('torchvision')):
        what = (
            f'torch {torch} and torchvision {vision} are not a matching pair, or one is built for '
            f'CUDA and the other is not: {error}'
        )
        problems.append(Problem(what, f'pip uninstall -y torch torchvision && {pair}'))
    elif error := errors.get('numpy'):
        what = f'torch {torch} cannot use numpy {numpy}: {error}'
        problems.append(Problem(what, "pip install 'numpy>=1.26,<2'"))
    if error := errors.get('cv2'):
        # often because machines without a display lack a system library
        remedy = 'pip uninstall -y opencv-python && pip install opencv-python-headless'
        problems.append(Problem(f'OpenCV does not import: {error}', remedy))
    return problems


def _describe(problems: list[Problem]) -> str:
    """The problems, numbered, each with its remedy on a line of its own."""
    lines = [f'{len(problems)} problem{"s" if len(problems) > 1 else ""}:']
    for number, problem in enumerate(problems, 1):
        lines += [f'  {number}. {problem.what}', f'       {problem.remedy}']
    if len(problems) > 2:
        lines += ['Or in a clone and a new environment: pip install -r requirements.txt']
    return '\n'.join(lines)


if __name__ == '__main__':
    sys.exit(main())
