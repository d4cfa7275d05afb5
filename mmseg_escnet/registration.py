"""Registers the components when MMSegmentation's registries come into use, and not before.

A config names ``mmseg_escnet`` in its ``custom_imports``, and people import it before ``mmseg``, to
have :mod:`.compat` first. Neither needs the components yet, nor do the command-line tools when they
answer ``--help``: torch, MMSegmentation and open_clip take seconds. So the package only leaves word
that :mod:`.components` is a location of MMSegmentation's registries, which MMEngine imports when
something is first asked of one. MMEngine's own list of the packages whose configs may be named
(``mmengine.hub.get_config('mmseg_escnet::escnet/...')``) is completed the same way.
"""

import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from . import compat

_COMPONENTS = f'{__package__}.components'


def register() -> None:
    """Have the components registered on demand (idempotent); ``mmseg`` may be imported or not."""
    for name, (before, after) in _AROUND_IMPORT.items():
        if name in sys.modules:
            before()
            after()
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds modules where the others find them; what has to be done comes with their import."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name not in _AROUND_IMPORT:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _around(spec.loader.exec_module, *_AROUND_IMPORT[name])
        return spec


def _around(exec_module, before, after):
    def exec_and_more(module: ModuleType) -> None:
        before()
        exec_module(module)
        after()

    return exec_and_more


def _add_location() -> None:
    """Add the components to the locations of MMSegmentation's registries.

    MMEngine takes locations when it makes a registry; for one that exists there is no public way.
    """
    import mmseg.registry
    from mmengine.registry import Registry

    registries = [r for r in vars(mmseg.registry).values() if isinstance(r, Registry)]
    for registry in registries:
        locations = registry._locations
        if locations and _COMPONENTS not in locations:  # a registry of none imports all of mmseg
            locations.append(_COMPONENTS)
    if any(registry._imported for registry in registries):  # those do not look again
        importlib.import_module(_COMPONENTS)


def _name_package() -> None:
    """Let configs be named ``mmseg_escnet::escnet/...``; MMEngine knows its own family only."""
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE[__package__] = __package__


# what is done before and after the import of a module
_AROUND_IMPORT = {
    'mmseg': (compat.setup, _add_location),
    'mmengine.config.utils': (lambda: None, _name_package),
}
