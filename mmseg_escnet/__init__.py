"""ESC-Net for MMSegmentation.

Importing the package registers every component in MMSegmentation's registries; a config pulls it
in with ``custom_imports = dict(imports=['mmseg_escnet'])``.
"""

from . import compat

compat.setup()  # before anything imports mmseg

from . import datasets, engine, evaluation, models  # noqa: E402
from .errors import ESCNetError  # noqa: E402
from .version import __version__  # noqa: E402
from .vocabulary import Vocabulary  # noqa: E402

__all__ = ['ESCNetError', 'Vocabulary', '__version__', 'datasets', 'engine', 'evaluation', 'models']
