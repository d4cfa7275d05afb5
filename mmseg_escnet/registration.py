"""Registers the components when MMSegmentation's registries come into use, and not before.

A config names ``mmseg_escnet`` in its ``custom_imports``, and people import it before ``mmseg``, to
have :mod:`.compat` first. Neither needs the components yet, nor do the command-line tools when they
answer ``--help``: torch, MMSegmentation and open_clip take seconds. So the package only leaves word
that :mod:`.components` is a location of MMSegmentation's registries, which MMEngine imports when
something is first asked of one.
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
    if 'mmseg' in sys.modules:
        compat.setup()
        _add_location()
    elif not any(isinstance(finder, _MMSegFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MMSegFinder())


class _MMSegFinder(MetaPathFinder):
    """Finds ``mmseg`` where the others find it; what has to be done comes with its import."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name != 'mmseg':
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _and_set_up(spec.loader.exec_module)
        return spec


def _and_set_up(exec_module):
    def exec_and_set_up(module: ModuleType) -> None:
        compat.setup()
        exec_module(module)
        _add_location()

    return exec_and_set_up


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
