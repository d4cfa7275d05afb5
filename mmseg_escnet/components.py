"""All that the package registers in MMSegmentation's registries: importing this does it.

:mod:`.registration` sees to it that the registries do so when they are first asked for anything.
"""

from . import compat
from .check import explain_import_error

try:
    compat.setup()  # before anything imports mmseg
    from . import engine, evaluation, models, visualization
    from .datasets import registered as datasets
    from .mmseg_apis import support_our_loaders, support_our_pictures
    from .toyworld import backbone, dataset

    support_our_loaders()
    support_our_pictures()
except Exception as error:
    explain_import_error(error)

__all__ = ['backbone', 'dataset', 'datasets', 'engine', 'evaluation', 'models', 'visualization']
