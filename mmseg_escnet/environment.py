"""What this package needs around it, what is there, and the command that mends each difference.

Used by ``python -m mmseg_escnet.check`` and, when importing the package fails, by
:func:`explain_import_error`. Imports the standard library only, since it has to work where
anything else is missing or broken; what must be imported to be tried is imported in a subprocess.
"""

import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True)
class Requirement:
    """One distribution and the versions of it that are supported.

    Attributes:
        name (str): The distribution, as pip knows it.
        minimum (str): The first supported version.
        below (str | None): The first version that is not supported any more.
        reason (str): Who needs it, where that is not plain.
        alternatives (tuple[str, ...]): Other distributions that provide the same modules.
    """

    name: str
    minimum: str
    below: str | None = None
    reason: str = ''
    alternatives: tuple[str, ...] = ()

    @property
    def specifier(self) -> str:
        """The range in pip's notation."""
        return f'>={self.minimum}' + (f',<{self.below}' if self.below else '')

    @property
    def install(self) -> str:
        """The command that installs a supported version."""
        return f"pip install '{self.name}{self.specifier}'"

    def accepts(self, version: str) -> bool:
        """Whether a version lies in the range."""
        number = parse_version(version)
        if number < parse_version(self.minimum):
            return False
        return self.below is None or number < parse_version(self.below)


PYTHON = Requirement('python', '3.10', '3.13')
# The same ranges as install_requires in setup.cfg; a test compares them.
REQUIREMENTS = (
    Requirement('torch', '2.1', '2.16'),
    Requirement('torchvision', '0.16', '0.30'),
    Requirement('mmengine', '0.10.7', '1', alternatives=('mmengine-lite',)),
    Requirement('mmsegmentation', '1.2.2', '1.3'),
    Requirement('open_clip_torch', '3.2', '4'),
    Requirement('segment-anything', '1.0', '2'),
    Requirement('timm', '1.0.22', '2'),
    Requirement('numpy', '1.26', '3'),
    Requirement(
        'opencv-python',
        '4.11',
        alternatives=(
            'opencv-python-headless',
            'opencv-contrib-python',
            'opencv-contrib-python-headless',
        ),
    ),
    Requirement('pillow', '9.5'),
    Requirement('scipy', '1.10'),
    Requirement('matplotlib', '3.7'),
    Requirement('pycocotools', '2.0.8', '3'),
    Requirement('pyyaml', '6'),
    Requirement('safetensors', '0.4'),
    Requirement('huggingface_hub', '0.30'),
    Requirement('prettytable', '3.0'),
    Requirement('rich', '13'),
    Requirement('tqdm', '4.60'),
    Requirement('ftfy', '6.1', reason="MMSegmentation's and CLIP's tokenizers import it"),
    Requirement('regex', '2022.1.18', reason="MMSegmentation's and CLIP's tokenizers import it"),
    Requirement('setuptools', '64', '82', reason='MMEngine imports its pkg_resources'),
)
# Either flavour will do, which install_requires cannot say.
MMCV = Requirement('mmcv', '2.0.1', '2.2')


@dataclass(frozen=True)
class Row:
    """One line of the table: what, which version, which are supported, and a word on it."""

    name: str
    installed: str
    supported: str
    status: str = 'ok'


@dataclass(frozen=True)
class Problem:
    """What is wrong, and the command (or the sentence) that mends it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Report:
    """The state of an environment."""

    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        return '\n'.join([*_table(self.rows), '', *_problem_list(self.problems)])


def explain_import_error(error: Exception) -> NoReturn:
    """Raise the error that importing the components ended with, with the cure in its message.

    Raises:
        ImportError: Something is missing or unsupported; the message lists all of it.
        Exception: ``error`` itself, where the environment is not to blame.
    """
    problems = inspect_environment().problems
    if not problems:
        raise error
    lines = [f'mmseg_escnet cannot be imported here: {error}', '', *_problem_list(problems)]
    raise ImportError('\n'.join(lines)) from error


def inspect_environment() -> Report:
    """Look at everything the package needs.

    Takes some seconds: torch, torchvision, OpenCV and mmcv's compiled part are imported in a
    subprocess, because a version says nothing about whether compiled code loads.
    """
    found = _probe()
    rows, problems = [], []
    for requirement in (PYTHON, *REQUIREMENTS):
        row, problem = _look_at(requirement)
        rows.append(row)
        if problem:
            problems.append(problem)
        if requirement.name == 'torchvision':
            row, mmcv_problems = _look_at_mmcv(found)
            rows.append(row)
            problems += mmcv_problems
    problems += _imports_that_fail(found)
    rows.append(Row('device', ', '.join(found.get('devices', ['unknown'])), 'any', ''))
    return Report(tuple(rows), tuple(problems))


def parse_version(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: ``'2.8.0+cu128'`` -> ``(2, 8)``, zeros at the end cut."""
    match = re.match(r'\d+(\.\d+)*', version)
    numbers = [int(part) for part in match.group().split('.')] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def installed_version(*names: str) -> str | None:
    """The version of the first of these distributions that is installed."""
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _look_at(requirement: Requirement) -> tuple[Row, Problem | None]:
    name, supported = requirement.name, requirement.specifier
    if requirement is PYTHON:
        version = platform.python_version()
        remedy = 'make a virtual environment with Python 3.10, 3.11 or 3.12'
    else:
        version = installed_version(name, *requirement.alternatives)
        remedy = requirement.install
        if name in ('torch', 'torchvision'):
            remedy = _matching_pair()
    if version is None:
        what = f'{name} is not installed' + _in_brackets(requirement.reason)
        return Row(name, '-', supported, 'MISSING'), Problem(what, remedy)
    if not requirement.accepts(version):
        what = f'{name} {version} is not supported ({supported})' + _in_brackets(requirement.reason)
        return Row(name, version, supported, 'UNSUPPORTED'), Problem(what, remedy)
    return Row(name, version, supported), None


def _look_at_mmcv(found: dict) -> tuple[Row, list[Problem]]:
    """mmcv comes as ``mmcv`` (compiled operators) or ``mmcv-lite`` (none); they share a folder."""
    full, lite = installed_version('mmcv'), installed_version('mmcv-lite')
    version, supported = full or lite, MMCV.specifier
    install_lite = f"pip install 'mmcv-lite{supported}'"
    if version is None:
        problem = Problem('neither mmcv nor mmcv-lite is installed', install_lite)
        return Row('mmcv', '-', supported, 'MISSING'), [problem]
    if full and lite:
        problem = Problem(
            f'mmcv {full} and mmcv-lite {lite} are both installed, one over the other',
            f'pip uninstall -y mmcv mmcv-lite && {install_lite}',
        )
        return Row('mmcv', f'{full} and {lite}', supported, 'TWICE'), [problem]
    problems = []
    status = 'ok, full' if full else 'ok, lite'
    if not MMCV.accepts(version):
        name = 'mmcv' if full else 'mmcv-lite'
        problems.append(
            Problem(
                f'{name} {version} is not supported ({supported}, a limit of MMSegmentation)',
                f'pip uninstall -y {name} && {install_lite}',
            )
        )
        status = 'UNSUPPORTED'
    elif full and found.get('mmcv._ext'):
        # Not a problem for ESC-Net (see compat), so it does not fail the check.
        status = 'ok, but its compiled operators do not load'
    return Row('mmcv', version, supported, status), problems


def _imports_that_fail(found: dict) -> list[Problem]:
    """Packages that are installed, and whose compiled part does not load."""
    problems = []
    if 'crash' in found:
        problems.append(Problem(f'importing torch fails: {found["crash"]}', _matching_pair()))
    if error := found.get('torch'):
        problems.append(Problem(f'torch does not import: {error}', _matching_pair()))
    elif error := found.get('torchvision'):
        torch, vision = installed_version('torch'), installed_version('torchvision')
        problems.append(
            Problem(
                f'torch {found.get("torch_version", torch)} and torchvision {vision} are not a '
                f'matching pair, or one is built for CUDA and the other is not: {error}',
                f'pip uninstall -y torch torchvision && {_matching_pair()}',
            )
        )
    elif found.get('numpy bridge'):
        torch, numpy = installed_version('torch'), installed_version('numpy')
        problems.append(
            Problem(
                f'torch {torch} cannot use numpy {numpy}: {found["numpy bridge"]}',
                "pip install 'numpy>=1.26,<2'",
            )
        )
    if error := found.get('cv2'):
        remedy = 'pip install --force-reinstall --no-deps opencv-python'
        if '.so' in error:  # a system library that machines without a display lack
            remedy = (
                'pip uninstall -y opencv-python && pip install opencv-python-headless   '
                '(or, on Debian and Ubuntu: apt-get install libgl1 libglib2.0-0)'
            )
        problems.append(Problem(f'OpenCV does not import: {error}', remedy))
    return problems


def _matching_pair() -> str:
    """The command that installs torch and torchvision as a pair; it works with and without CUDA.

    torchvision says which torch it belongs to, so pip finds it.
    """
    version = installed_version('torch')
    torch = REQUIREMENTS[0]
    if version is None or not torch.accepts(version):
        return 'pip install torch==2.8.0 torchvision==0.23.0'
    minor = (*parse_version(version), 0)[1]
    return f"pip install 'torch==2.{minor}.*' torchvision"


# Runs in a subprocess: the failure of one import breaks later ones in the same process, and a
# library built for another machine can end the process altogether.
_PROBE = """
import importlib, json, warnings
warnings.simplefilter('ignore')
found = {}
for name in ('torch', 'torchvision', 'cv2', 'mmcv._ext'):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (name, name.partition('.')[0]):
            found[name] = f'{type(error).__name__}: {error}'
    except Exception as error:
        found[name] = f'{type(error).__name__}: {error}'
try:
    import torch
    found['torch_version'] = torch.__version__
    cuda = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    found['devices'] = [
        f'cuda:{i} {gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)' for i, gpu in enumerate(cuda)
    ] or [f'cpu ({torch.get_num_threads()} threads)']
    if importlib.util.find_spec('numpy'):
        try:
            torch.zeros(1).numpy()
        except Exception as error:
            found['numpy bridge'] = str(error)
except Exception:
    pass
print(json.dumps(found))
"""


def _probe() -> dict:
    """Error messages by module name, ``devices`` and ``torch_version``; ``crash`` if it died."""
    command = [sys.executable, '-c', _PROBE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {'crash': f'Python ended with status {done.returncode}. {done.stderr[-300:]}'}
    return json.loads(lines[-1])


def _in_brackets(text: str) -> str:
    return f' ({text})' if text else ''


def _table(rows: tuple[Row, ...]) -> list[str]:
    """The rows under a heading, in columns."""
    cells = [('package', 'installed', 'supported', 'status')]
    cells += [(row.name, row.installed, row.supported, row.status) for row in rows]
    # Long entries (the names of eight GPUs) stick out rather than widen the column for all.
    widths = [max(len(cell[i]) for cell in cells if len(cell[i]) <= 24) for i in range(3)]
    lines = []
    for cell in cells:
        columns = [text.ljust(width) for text, width in zip(cell, [*widths, 0], strict=True)]
        lines.append('  '.join(columns).rstrip())
    return lines


def _problem_list(problems: tuple[Problem, ...]) -> list[str]:
    """The problems, numbered, each with its remedy on a line of its own."""
    if not problems:
        return ['All right.']
    lines = [f'{len(problems)} problem{"s" if len(problems) > 1 else ""}:']
    for number, problem in enumerate(problems, 1):
        lines += [f'  {number}. {problem.what}', f'       {problem.remedy}']
    if len(problems) > 2:
        lines += ['Or all at once, pinned, in a clone: pip install -r requirements.txt']
    return lines
