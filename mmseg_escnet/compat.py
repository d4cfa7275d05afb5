"""Fixes that make OpenMMLab work with current PyTorch, to be applied before importing ``mmseg``.

MMSegmentation 1.2.2 and MMEngine 0.10.7 predate some of their dependencies. Each function below
fixes one observed failure. Importing this module runs :func:`setup`; every sub-package that needs
``mmseg`` imports it first.
"""

import functools
import importlib
import pickle
import sys
import types
import warnings
from importlib.machinery import ModuleSpec
from typing import NoReturn

__all__ = ['setup']


def setup() -> None:
    """Make MMSegmentation importable and MMEngine's checkpoints loadable (idempotent).

    Raises:
        ImportError: torch, mmcv, mmengine or numpy is not installed.
    """
    _silence()
    _provide_mmcv_ops()
    _allow_mmengine_checkpoints()


def _silence() -> None:
    """Hide warnings that users cannot act on."""
    for message in (
        'pkg_resources is deprecated as an API',  # MMEngine itself imports it
        'Validating sparse tensor invariants',  # newer PyTorch, of sparse_rows()
        '``build_loss`` would be deprecated',  # MMSegmentation's heads call it
    ):
        warnings.filterwarnings('ignore', message=message, category=UserWarning)


class _OpsStandIn(types.ModuleType):
    """``mmcv.ops`` where mmcv has no compiled operators.

    Every public name is a class that can be imported, subclassed and passed to ``isinstance``
    (MMEngine's optimizer constructors do all three), and raises ImportError when called. Names
    with a leading underscore do not exist, so ``inspect``, ``pickle`` and ``hasattr`` see an
    ordinary module; without ``__path__``, importing ``mmcv.ops.nms`` fails as usual.
    """

    def __init__(self, reason: str) -> None:
        super().__init__('mmcv.ops', f'Stand-in for mmcv.ops: {reason}.')
        self.__spec__ = ModuleSpec('mmcv.ops', loader=None, origin=__name__)
        self._reason = reason

    def __getattr__(self, name: str) -> type:
        if name.startswith('_'):
            raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')
        operator = _make_operator(name, self._reason)
        setattr(self, name, operator)  # isinstance and pickle need the same class every time
        return operator

    @staticmethod
    def get_compiler_version() -> str:
        """For ``mmcv.utils.collect_env``, which expects a string."""
        return 'n/a'

    get_compiling_cuda_version = get_compiler_version


def _make_operator(name: str, reason: str) -> type:
    """A class in place of the operator ``mmcv.ops.<name>`` that cannot be instantiated."""

    def __new__(cls, *args, **kwargs) -> NoReturn:
        raise ImportError(
            f'mmcv.ops.{name} needs the compiled operators of the full mmcv, and {reason}. '
            'To install them: pip uninstall -y mmcv mmcv-lite && '
            "pip install --no-build-isolation --no-cache-dir 'mmcv==2.1.0' "
            '(compiles for about 15 minutes). ESC-Net itself does not need them.'
        )

    return type(name, (), {'__new__': __new__, '__module__': 'mmcv.ops', '__doc__': reason})


def _why_no_compiled_ops() -> str | None:
    """None if ``mmcv._ext`` can be imported, otherwise the reason as a clause."""
    import mmcv
    import torch  # noqa: F401  (mmcv._ext links against torch's libraries)

    try:
        importlib.import_module('mmcv._ext')
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == 'mmcv._ext':
            return f'the installed mmcv {mmcv.__version__} (mmcv-lite) has none'
        # usually compiled for another torch
        return f'those of the installed mmcv {mmcv.__version__} cannot be imported: {error}'
    return None


def _provide_mmcv_ops() -> None:
    """Install a stand-in for ``mmcv.ops`` unless mmcv has its compiled operators.

    MMSegmentation imports ``mmcv.ops`` unguarded in heads and losses that ESC-Net does not use, and
    the ``mmcv.ops`` of mmcv-lite fails on import.
    """
    if 'mmcv.ops' in sys.modules:  # from an earlier call, or the real one
        return
    reason = _why_no_compiled_ops()
    if reason is None:
        return
    import mmcv

    mmcv.ops = sys.modules['mmcv.ops'] = _OpsStandIn(reason)
    # mmcv-lite warns at every import, even if that layer is not used
    warnings.filterwarnings(
        'ignore',
        message='Fail to import ``MultiScaleDeformableAttention``',
        category=UserWarning,
    )


_HISTORY_BUFFER_STATISTICS = ('min', 'max', 'current', 'mean')
"""The methods that every pickled ``HistoryBuffer`` refers to."""
_NUMBER_TYPE_CODES = '?bBhHiIlLqQefd'
"""numpy's one-letter codes of booleans, integers and floats."""
_UNREACHABLE = '\n'
"""Ends a name that no pickle can contain, since names in a pickle end with the line. An object
listed under such a name may have its state set (pickle's BUILD), but cannot be called."""


def _allow_mmengine_checkpoints() -> None:
    """Allow only what MMEngine writes into its checkpoints under ``weights_only=True``.

    torch >= 2.6 loads with ``weights_only=True`` by default, and MMEngine does not set it: without
    this, ``--resume`` and ``load_from`` fail on MMEngine's own files. Besides tensors and plain
    Python those contain the curves of logged scalars (``HistoryBuffer``, numpy arrays) and scores
    (numpy scalars). With earlier releases MMEngine trusts the file.
    """
    import torch

    if can_restrict_checkpoints():
        torch.serialization.add_safe_globals(_safe_globals())


def can_restrict_checkpoints() -> bool:
    """Whether this torch can read MMEngine's checkpoints with ``weights_only=True``."""
    import torch

    add_safe_globals = getattr(torch.serialization, 'add_safe_globals', None)
    return add_safe_globals is not None and 'uple[' in str(add_safe_globals.__annotations__)


@functools.cache  # the same objects every time: torch keeps them in a set
def _safe_globals() -> list:
    """The classes and functions a checkpoint may use, for ``add_safe_globals``.

    The usual advice (allow ``getattr``, ``numpy.ndarray``, ``numpy.dtype``) would defeat
    ``weights_only=True``: ``getattr`` leads from any class to its module's globals, and
    ``ndarray(1, 'O', buffer)`` makes Python objects from bytes. So those names map to functions
    that accept exactly what MMEngine writes.
    """
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    class ArrayType(np.ndarray):
        """In place of ``numpy.ndarray`` as an argument of ``_reconstruct``; cannot be called.

        A subclass, so that the real ``_reconstruct``, which another library may have allowed,
        accepts it too.
        """

        def __new__(cls, *args, **kwargs) -> NoReturn:
            raise pickle.UnpicklingError('the checkpoint calls numpy.ndarray')

        def __reduce__(self):
            return self.view(np.ndarray).__reduce__()

    def get_statistic(owner, name):
        """``getattr(HistoryBuffer, 'mean')``: a pickled buffer refers to its own methods."""
        known = type(name) is str and name in _HISTORY_BUFFER_STATISTICS
        if owner is HistoryBuffer and known:
            return getattr(owner, name)
        raise pickle.UnpicklingError(f'the checkpoint asks for getattr({owner!r}, {name!r})')

    def rebuild_dtype(code, *_):
        """A number's dtype: numpy's own, not a copy, so that setting its state has no effect."""
        dtype = np.dtype(code) if type(code) is str else None
        if dtype is None or dtype.char not in _NUMBER_TYPE_CODES or not dtype.isnative:
            raise pickle.UnpicklingError(f'the checkpoint holds a numpy dtype {code!r}')
        return dtype

    def rebuild_array(array_type, *_):
        """An empty array, like ``_reconstruct``; its state (shape, dtype, data) is set later."""
        if array_type not in (ArrayType, np.ndarray):
            raise pickle.UnpicklingError(f'the checkpoint holds an array of type {array_type!r}')
        return np.empty(0, np.int8)

    def rebuild_scalar(dtype, data):
        """One number."""
        if not isinstance(dtype, np.dtype) or dtype.char not in _NUMBER_TYPE_CODES:
            raise pickle.UnpicklingError(f'the checkpoint holds a numpy scalar of type {dtype!r}')
        return np.frombuffer(data, dtype, count=1)[0]

    number_types = {type(np.dtype(code)) for code in _NUMBER_TYPE_CODES}
    return [
        HistoryBuffer,
        (get_statistic, 'builtins.getattr'),
        (ArrayType, 'numpy.ndarray'),
        (rebuild_dtype, 'numpy.dtype'),
        # numpy 1 uses numpy.core, numpy 2 numpy._core; files may come from either
        (rebuild_array, 'numpy.core.multiarray._reconstruct'),
        (rebuild_array, 'numpy._core.multiarray._reconstruct'),
        (rebuild_scalar, 'numpy.core.multiarray.scalar'),
        (rebuild_scalar, 'numpy._core.multiarray.scalar'),
        (np.ndarray, 'numpy.ndarray' + _UNREACHABLE),
        *((kind, f'numpy.dtypes.{kind.__name__}' + _UNREACHABLE) for kind in number_types),
    ]


setup()
