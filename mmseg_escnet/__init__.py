"""ESC-Net for MMSegmentation.

Importing the package registers every component in MMSegmentation's registries; a config pulls it
in with ``custom_imports = dict(imports=['mmseg_escnet'])``.
"""

from . import compat
from .environment import explain_import_error
from .errors import ESCNetError
from .version import __version__

try:
    compat.setup()  # before anything imports mmseg
    from . import datasets, engine, evaluation, models
    from .apis.mmseg_inferencer import support_our_loaders
    from .vocabulary import Vocabulary

    support_our_loaders()
except Exception as error:
    explain_import_error(error)  # raises; under `python -m mmseg_escnet.check` it lets us go on

__all__ = ['ESCNetError', 'Vocabulary', '__version__', 'datasets', 'engine', 'evaluation', 'models']
