"""OpenMMLab on today's PyTorch: what has to be arranged before ``mmseg`` is imported.

MMSegmentation 1.2.2 and MMEngine 0.10.7 predate some of what they are installed with now. Each
function below fixes one thing that was seen to break, and nothing else. Importing this module runs
:func:`setup`; every sub-package that needs ``mmseg`` does so first.
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


# --------------------------------------------------------------------------------------------------
# Warnings
# --------------------------------------------------------------------------------------------------


def _silence() -> None:
    """Hide warnings that no user can act on."""
    for message in (
        'pkg_resources is deprecated as an API',  # MMEngine itself imports it
        'Validating sparse tensor invariants',  # newer PyTorch, of sparse_rows()
        '``build_loss`` would be deprecated',  # MMSegmentation's heads call it
    ):
        warnings.filterwarnings('ignore', message=message, category=UserWarning)


# --------------------------------------------------------------------------------------------------
# mmcv.ops without mmcv's compiled extension
# --------------------------------------------------------------------------------------------------


class _OpsStandIn(types.ModuleType):
    """``mmcv.ops`` where mmcv has no compiled operators.

    Every public name is a class of that name: it can be imported, subclassed and given to
    ``isinstance`` (MMEngine's optimizer constructors do all three), and raises ImportError when it
    is called. Names that begin with an underscore do not exist, so that ``inspect``, ``pickle``
    and ``hasattr`` see an ordinary module. In particular it has no ``__path__``: importing
    ``mmcv.ops.nms`` fails as it does for any module that is not a package.
    """

    def __init__(self, reason: str) -> None:
        super().__init__('mmcv.ops', f'Stand-in for mmcv.ops: {reason}.')
        self.__spec__ = ModuleSpec('mmcv.ops', loader=None, origin=__name__)
        self._reason = reason

    def __getattr__(self, name: str) -> type:
        if name.startswith('_'):
            raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')
        operator = _make_operator(name, self._reason)
        setattr(self, name, operator)  # the same class every time: isinstance and pickle need that
        return operator

    # mmcv.utils.collect_env asks for these two and expects strings.

    @staticmethod
    def get_compiler_version() -> str:
        """Nothing was compiled."""
        return 'n/a'

    @staticmethod
    def get_compiling_cuda_version() -> str:
        """Nothing was compiled."""
        return 'n/a'


def _make_operator(name: str, reason: str) -> type:
    """A class that stands for the operator ``mmcv.ops.<name>`` and cannot be instantiated."""

    def __new__(cls, *args, **kwargs) -> NoReturn:
        raise ImportError(
            f'mmcv.ops.{name} needs the compiled operators of the full mmcv, and {reason}. '
            'To get them: pip uninstall -y mmcv mmcv-lite && '
            "pip install --no-build-isolation --no-cache-dir 'mmcv==2.1.0' "
            '(it compiles for a quarter of an hour). ESC-Net itself needs none of them.'
        )

    return type(name, (), {'__new__': __new__, '__module__': 'mmcv.ops', '__doc__': reason})


def _why_no_compiled_ops() -> str | None:
    """None when ``mmcv._ext`` imports, else half a sentence that says why it does not."""
    import mmcv
    import torch  # noqa: F401  (mmcv._ext links against torch's libraries)

    try:
        importlib.import_module('mmcv._ext')
    except ModuleNotFoundError as error:
        if error.name == 'mmcv._ext':
            return f'the mmcv {mmcv.__version__} installed here (mmcv-lite) has none'
        return f'those of the mmcv {mmcv.__version__} installed here do not import: {error}'
    except ImportError as error:  # compiled for another torch, as a rule
        return f'those of the mmcv {mmcv.__version__} installed here do not import: {error}'
    return None


def _provide_mmcv_ops() -> None:
    """Put a stand-in for ``mmcv.ops`` in place unless mmcv has its compiled operators.

    MMSegmentation imports ``mmcv.ops`` unguarded in heads and losses that ESC-Net does not use.
    mmcv-lite ships the Python half of ``mmcv.ops``, which fails on import; what is in
    ``sys.modules`` wins over it.
    """
    if 'mmcv.ops' in sys.modules:  # ours from an earlier call, the real one, or somebody else's
        return
    reason = _why_no_compiled_ops()
    if reason is None:
        return
    import mmcv

    mmcv.ops = sys.modules['mmcv.ops'] = _OpsStandIn(reason)
    # mmcv-lite says so at every import, to people who never asked for that layer.
    warnings.filterwarnings(
        'ignore',
        message='Fail to import ``MultiScaleDeformableAttention``',
        category=UserWarning,
    )


# --------------------------------------------------------------------------------------------------
# MMEngine's checkpoints under torch.load(weights_only=True)
# --------------------------------------------------------------------------------------------------

_HISTORY_BUFFER_STATISTICS = ('min', 'max', 'current', 'mean')
"""The methods that every pickled ``HistoryBuffer`` refers to."""

_NUMBER_TYPE_CODES = '?bBhHiIlLqQefd'
"""numpy's one-letter codes of booleans, integers and floats."""

_UNREACHABLE = '\n'
"""Ends a name that no pickle can utter, since names in a pickle end at the line's end. What stands
in the list under such a name may have its state set (pickle's BUILD), but not be called."""


def _allow_mmengine_checkpoints() -> None:
    """Allow what MMEngine writes into its checkpoints, and no more, under ``weights_only=True``.

    torch >= 2.6 reads with ``weights_only=True`` unless told otherwise, and MMEngine tells it
    nothing: without this, ``--resume`` and ``load_from`` fail on MMEngine's own files. Those hold,
    besides tensors and plain Python, the curves of the logged scalars (``HistoryBuffer``, numpy
    arrays) and scores (numpy scalars).

    Earlier releases have no such list, or one that takes no names; there MMEngine trusts the file.
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
    """The classes and functions a checkpoint may name, as ``add_safe_globals`` takes them.

    The usual advice (allow ``getattr``, ``numpy.ndarray``, ``numpy.dtype``) would open the door
    that ``weights_only=True`` shuts: ``getattr`` leads from any class to its module's globals, and
    ``ndarray(1, 'O', buffer)`` makes Python objects out of bytes. So those names lead to functions
    that know exactly what MMEngine writes.
    """
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    class ArrayType(np.ndarray):
        """Stands for ``numpy.ndarray`` as an argument of ``_reconstruct``; cannot be called.

        It is a subclass of it so that ``_reconstruct`` itself, which another library may have
        allowed, accepts it too.
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
        """A number's dtype: numpy's own, never a copy, so that setting its state has no effect."""
        dtype = np.dtype(code) if type(code) is str else None
        if dtype is None or dtype.char not in _NUMBER_TYPE_CODES or not dtype.isnative:
            raise pickle.UnpicklingError(f'the checkpoint holds a numpy dtype {code!r}')
        return dtype

    def rebuild_array(array_type, *_):
        """An empty array, as ``_reconstruct`` makes it; its state (shape, dtype, data) follows."""
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
        # numpy 1 says numpy.core, numpy 2 says numpy._core; files travel between them.
        (rebuild_array, 'numpy.core.multiarray._reconstruct'),
        (rebuild_array, 'numpy._core.multiarray._reconstruct'),
        (rebuild_scalar, 'numpy.core.multiarray.scalar'),
        (rebuild_scalar, 'numpy._core.multiarray.scalar'),
        (np.ndarray, 'numpy.ndarray' + _UNREACHABLE),
        *((kind, f'numpy.dtypes.{kind.__name__}' + _UNREACHABLE) for kind in number_types),
    ]


setup()
