"""Fixes that make OpenMMLab work with current PyTorch, to be applied before importing ``mmseg``.

MMSegmentation 1.2.2 and MMEngine 0.10.7 predate some of their dependencies. Of their maintained
fork, onedl-mmsegmentation and onedl-mmengine, only the loading of checkpoints needs a fix. Each
function below fixes one observed failure, where it occurs. Importing this module runs
:func:`setup`; every sub-package that needs ``mmseg`` imports it first.
"""

import contextlib
import functools
import importlib
import importlib.util
import pickle
import sys
import types
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path
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
    _import_data_sets_silently()


def _silence() -> None:
    """Hide warnings that users cannot act on."""
    for message in (
        'pkg_resources is deprecated as an API',  # MMEngine itself imports it
        'Validating sparse tensor invariants',  # newer PyTorch, of sparse_rows()
        '``build_loss`` would be deprecated',  # MMSegmentation's heads call it
        # an mmcv without operators warns at every import, even if that layer is not used
        'Fail to import ``MultiScaleDeformableAttention``',
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


def _why_a_stand_in() -> str | None:
    """Why ``mmcv.ops`` needs a stand-in, as a clause; None if it can be left as it is."""
    import mmcv
    import torch  # noqa: F401  (mmcv._ext links against torch's libraries)

    try:
        importlib.import_module('mmcv._ext')
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == 'mmcv._ext':
            if _mmseg_guards_its_imports():
                return None
            return f'the installed mmcv {mmcv.__version__} (mmcv-lite) has none'
        # usually compiled for another torch
        return f'those of the installed mmcv {mmcv.__version__} cannot be imported: {error}'
    return None


def _mmseg_guards_its_imports() -> bool:
    """Whether MMSegmentation can do without ``mmcv.ops``, as onedl-mmsegmentation can.

    Importing it is no way to find out: a module that fails to import leaves half of the package.
    """
    source = _mmseg_folder() / 'models' / 'losses' / 'focal_loss.py'
    return source.is_file() and 'except ModuleNotFoundError' in source.read_text(encoding='utf-8')


def _mmseg_folder() -> Path:
    """Where MMSegmentation is, which must not be imported yet; elsewhere if it is not installed."""
    spec = importlib.util.find_spec('mmseg')
    return Path(spec.submodule_search_locations[0] if spec else 'no mmseg')


def _provide_mmcv_ops() -> None:
    """Install a stand-in for ``mmcv.ops`` where MMSegmentation fails without.

    MMSegmentation 1.2.2 imports ``mmcv.ops`` unguarded in heads and losses that ESC-Net does not
    use, and the ``mmcv.ops`` of mmcv-lite fails on import. onedl-mmsegmentation expects operators
    to be missing, but not that compiled ones do not load.
    """
    if 'mmcv.ops' in sys.modules:  # from an earlier call, or the real one
        return
    reason = _why_a_stand_in()
    if reason is not None:
        import mmcv

        mmcv.ops = sys.modules['mmcv.ops'] = _OpsStandIn(reason)


def _import_data_sets_silently() -> None:
    """Keep off stdout what onedl-mmsegmentation prints there: its maker's data sets are missing."""
    if (_mmseg_folder() / 'datasets' / 'onedl.py').is_file():
        with contextlib.redirect_stdout(None):
            importlib.import_module('mmseg.datasets')


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

    onedl-mmengine sets it, but allows ``getattr`` and ``numpy.ndarray``, and if a file is refused
    all the same, executes what it contains.
    """
    import torch

    if not can_restrict_checkpoints():
        return
    torch.serialization.add_safe_globals(_safe_globals())
    from mmengine.runner import checkpoint

    if hasattr(checkpoint, '_safe_torch_load'):
        checkpoint._safe_torch_load = functools.partial(
            checkpoint._safe_torch_load, weights_only=True
        )


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
