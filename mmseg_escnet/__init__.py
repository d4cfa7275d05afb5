"""ESC-Net for MMSegmentation.

Importing the package takes no time, and has every component registered in MMSegmentation's
registries when they are first used (see :mod:`.registration`). A config pulls it in with
``custom_imports = dict(imports=['mmseg_escnet'])``.
"""

import importlib

from . import registration
from .errors import ESCNetError
from .version import __version__
from .vocabulary import Vocabulary

registration.register()

_PARTS = ('apis', 'datasets', 'engine', 'evaluation', 'models', 'visualization')
__all__ = ['ESCNetError', 'Vocabulary', '__version__', *_PARTS]


def __getattr__(name: str):
    """``mmseg_escnet.models`` and the other parts, imported when they are asked for."""
    if name in _PARTS:
        from . import components  # noqa: F401  says what is missing, if anything is

        return importlib.import_module(f'.{name}', __name__)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
