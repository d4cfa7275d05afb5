"""OpenMMLab on today's PyTorch: what has to be arranged before ``mmseg`` is imported.

MMSegmentation 1.2.2 and MMEngine 0.10.7 predate some of what they are installed with now. Each
function below mends one thing that was seen to break, and nothing else; :func:`setup` runs them
all and may be called any number of times.

Third-party packages are imported inside the functions, so that importing this module never fails.
"""

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
    _silence_pkg_resources()
    _provide_mmcv_ops()
    _allow_mmengine_checkpoints()


# --------------------------------------------------------------------------------------------------
# Warnings
# --------------------------------------------------------------------------------------------------


def _silence_pkg_resources() -> None:
    """Hide one warning that no user can act on: MMEngine itself imports ``pkg_resources``."""
    warnings.filterwarnings(
        'ignore', message='pkg_resources is deprecated as an API', category=UserWarning
    )


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


def _history_buffer_statistic(owner: type, name: str):
    """What a checkpoint's ``getattr(HistoryBuffer, 'mean')`` is allowed to be.

    A pickled ``HistoryBuffer`` holds its own methods, and pickle writes a method as a call of
    ``builtins.getattr``. Allowing the real ``getattr`` would open the door that
    ``weights_only=True`` shuts (``HistoryBuffer.__init__.__globals__`` leads anywhere), so this
    function goes by its name and knows four answers.
    """
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is HistoryBuffer and type(name) is str and name in _HISTORY_BUFFER_STATISTICS:
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(
        f'the checkpoint asks for getattr({owner!r}, {name!r}), which MMEngine never writes'
    )


def _rebuild_array(subtype: type, shape: tuple, type_code: bytes):
    """What a checkpoint's ``numpy.core.multiarray._reconstruct`` is allowed to be."""
    import numpy as np

    if subtype is not np.ndarray:
        raise pickle.UnpicklingError(f'the checkpoint holds an array of type {subtype!r}')
    return np.ndarray.__new__(np.ndarray, shape, type_code)


def _rebuild_scalar(dtype, data: bytes):
    """What a checkpoint's ``numpy.core.multiarray.scalar`` is allowed to be: a number."""
    import numpy as np

    if not isinstance(dtype, np.dtype) or dtype.char not in _NUMBER_TYPE_CODES:
        raise pickle.UnpicklingError(f'the checkpoint holds a numpy scalar of type {dtype!r}')
    if type(data) is not bytes or len(data) != dtype.itemsize:
        raise pickle.UnpicklingError('the checkpoint holds a damaged numpy scalar')
    return np.frombuffer(data, dtype)[0]


def _known_as(function, module: str, name: str):
    """A function of its own that a pickle finds under the name ``module.name``.

    ``add_safe_globals`` files a callable under its ``__module__`` and ``__qualname__``. (Newer
    releases also take a pair of callable and name; this works with every release.)
    """

    def alias(*args):
        return function(*args)

    alias.__module__, alias.__name__, alias.__qualname__ = module, name, name
    alias.__doc__ = function.__doc__
    return alias


_SAFE_FUNCTIONS = (
    _known_as(_history_buffer_statistic, 'builtins', 'getattr'),
    # numpy 1 calls its module numpy.core, numpy 2 calls it numpy._core: a checkpoint written under
    # the one must load under the other.
    _known_as(_rebuild_array, 'numpy.core.multiarray', '_reconstruct'),
    _known_as(_rebuild_array, 'numpy._core.multiarray', '_reconstruct'),
    _known_as(_rebuild_scalar, 'numpy.core.multiarray', 'scalar'),
    _known_as(_rebuild_scalar, 'numpy._core.multiarray', 'scalar'),
)


def _allow_mmengine_checkpoints() -> None:
    """Allow what MMEngine writes into its checkpoints, and no more, under ``weights_only=True``.

    torch >= 2.6 reads with ``weights_only=True`` unless told otherwise, and MMEngine tells it
    nothing: without this, ``--resume`` and ``load_from`` fail on MMEngine's own files. Those hold,
    besides tensors and plain Python, the curves of the logged scalars (``HistoryBuffer``, numpy
    arrays) and scores (numpy scalars). Before torch 2.4 there is no such list, and no need.
    """
    import torch

    if not hasattr(torch.serialization, 'add_safe_globals'):
        return
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    number_types = {type(np.dtype(code)) for code in _NUMBER_TYPE_CODES}
    torch.serialization.add_safe_globals(
        [HistoryBuffer, np.ndarray, np.dtype, *number_types, *_SAFE_FUNCTIONS]
    )
