"""The ends of what ESC-Net supports: the quick tests in an environment of each.

    pip install nox uv
    nox                              the oldest, the pinned and the newest versions, and the fork
    nox -s oldest                    one of them
    nox -s newest -- tests           all tests
    nox -s pinned -- -k vocabulary   arguments of pytest

Environments are made anew below .nox/ by uv, about 7 GB each. The README says what was run.
"""

import nox

nox.needs_version = '>=2024.3'
nox.options.default_venv_backend = 'uv'
nox.options.stop_on_first_error = False

QUICK = [
    'tests/apis',
    'tests/configs',
    'tests/datasets',
    'tests/engine',
    'tests/evaluation',
    'tests/models',
    'tests/test_compat.py',
    'tests/test_vocabulary.py',
    'tests/tools/test_train_and_test.py',
]


@nox.session(python='3.10')
def oldest(session: nox.Session) -> None:
    """Each requirement at the lower end of its range in setup.cfg."""
    session.install('--resolution', 'lowest-direct', '-e', '.[lite,test]')
    test(session)


@nox.session(python='3.11')
def pinned(session: nox.Session) -> None:
    """What `make test` installs."""
    session.install('-r', 'requirements.txt')
    session.install('--no-deps', '-e', '.')
    test(session)


@nox.session(python='3.13')
def newest(session: nox.Session) -> None:
    """Each requirement at the upper end of its range, or the newest there is."""
    session.install('-e', '.[lite,test,export,docs,shapes,web]')
    test(session)


@nox.session(python='3.13')
def onedl(session: nox.Session) -> None:
    """OpenMMLab's maintained fork, and the newest of everything else."""
    session.install('-e', '.[onedl,test,export,shapes]')
    test(session)


def test(session: nox.Session) -> None:
    """Say the versions, and run the tests."""
    session.run('python', '-m', 'mmseg_escnet.check')
    arguments = session.posargs or QUICK
    environment = dict(OMP_NUM_THREADS='1')
    session.run(
        'python', '-m', 'pytest', '-q', '-n', '2', '--dist', 'loadfile', *arguments, env=environment
    )
