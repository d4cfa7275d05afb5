"""The part of the build that ``setup.cfg`` cannot say: what travels in the wheel besides modules.

OpenMMLab's packages carry configs and tools as ``<package>/.mim``, where MMEngine looks for configs
that are named ``mmseg_escnet::escnet/...``. The miniature weights are beside them, as in the
repository.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CARRIED = ('configs', 'tools', 'data/toyworld', 'model-index.yml')


class BuildWithConfigs(build_py):
    """``build_py`` that also copies configs, tools and the model index to ``.mim``."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # the work tree itself is on the path
            return
        destination = Path(self.build_lib) / 'mmseg_escnet' / '.mim'
        shutil.rmtree(destination, ignore_errors=True)  # files since deleted from the work tree
        for name in CARRIED:
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns('__pycache__', '*.pyc')
                shutil.copytree(source, destination / name, ignore=ignored)
            elif source.is_file():
                destination.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, destination / name)


setup(cmdclass={'build_py': BuildWithConfigs})
