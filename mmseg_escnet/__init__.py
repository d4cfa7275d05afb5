"""ESC-Net for MMSegmentation.

Importing the package is quick and imports none of its dependencies. :mod:`.components` registers
everything in MMSegmentation's registries; a config does it by
``custom_imports = dict(imports=['mmseg_escnet.components'])``.
"""

import importlib

from .errors import ESCNetError
from .version import __version__

_PARTS = ('apis', 'datasets', 'engine', 'evaluation', 'models', 'visualization')
__all__ = ['ESCNetError', 'Vocabulary', '__version__', *_PARTS]


def __getattr__(name: str):
    """``Vocabulary``, and ``mmseg_escnet.models`` and the other sub-packages, on first use."""
    if name == 'Vocabulary':
        return importlib.import_module('.vocabulary', __name__).Vocabulary
    if name in _PARTS:
        from . import components  # noqa: F401  says what is missing, if anything is

        return importlib.import_module(f'.{name}', __name__)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
