"""What ``mmengine.hub.get_model`` asks a package for under this very name."""


def register_all_modules() -> None:
    """Register the components and make ``mmseg`` the scope in which their names are looked up."""
    from mmseg.utils import register_all_modules as register_mmseg

    from . import components  # noqa: F401

    register_mmseg(init_default_scope=True)
