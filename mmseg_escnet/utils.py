"""What ``mmengine.hub.get_model`` asks a package for under this very name."""

from . import components  # noqa: F401  registers them; before mmseg


def register_all_modules() -> None:
    """Make ``mmseg`` the scope in which names of components are looked up."""
    from mmseg.utils import register_all_modules as register_mmseg

    register_mmseg(init_default_scope=True)
