"""All that the package registers in MMSegmentation's registries: importing this does it.

Configs name it in their ``custom_imports``. It also makes configs known to MMEngine by name
(``mmengine.hub.get_config('mmseg_escnet::escnet/...')``).
"""

import gc
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution

# collecting garbage while millions of objects appear takes a quarter of the time of the imports
_collects = gc.isenabled()
gc.disable()
try:
    from mmengine.config.utils import MODULE2PACKAGE

    from . import compat, datasets, engine, evaluation, models, visualization  # compat before mmseg
    from .datasets import benchmarks, folder, transforms  # noqa: F401
    from .mmseg_apis import support_our_loaders, support_our_pictures
    from .toyworld import backbone, dataset  # noqa: F401
except Exception as error:
    from .check import explain_import_error

    explain_import_error(error)
finally:
    if _collects:
        gc.enable()

MODULE2PACKAGE[__package__] = __package__  # MMEngine lists its own family only
with suppress(PackageNotFoundError):  # and onedl-mmengine lists MMEngine's, not its own
    MODULE2PACKAGE['mmseg'] = distribution('onedl-mmsegmentation').name
support_our_loaders()
support_our_pictures()

__all__ = ['compat', 'datasets', 'engine', 'evaluation', 'models', 'visualization']
