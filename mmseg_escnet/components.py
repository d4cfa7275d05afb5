"""All that the package registers in MMSegmentation's registries: importing this does it.

Configs name it in their ``custom_imports``. It also makes configs known to MMEngine by name
(``mmengine.hub.get_config('mmseg_escnet::escnet/...')``).
"""

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution

from .check import explain_import_error

try:
    from . import compat, datasets, engine, evaluation, models, visualization  # compat before mmseg
    from .datasets import benchmarks, folder, transforms  # noqa: F401
    from .mmseg_apis import support_our_loaders, support_our_pictures
    from .toyworld import backbone, dataset  # noqa: F401
except Exception as error:
    explain_import_error(error)

from mmengine.config.utils import MODULE2PACKAGE

MODULE2PACKAGE[__package__] = __package__  # MMEngine lists its own family only
with suppress(PackageNotFoundError):  # and onedl-mmengine lists MMEngine's, not its own
    MODULE2PACKAGE['mmseg'] = distribution('onedl-mmsegmentation').name
support_our_loaders()
support_our_pictures()

__all__ = ['compat', 'datasets', 'engine', 'evaluation', 'models', 'visualization']
