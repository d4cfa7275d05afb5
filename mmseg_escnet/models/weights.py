"""Reading untrusted weights: checked, never executed, loaded strictly."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import open_clip
import torch
import torch.nn as nn
from safetensors.torch import load_file
from torch import Tensor

from ..config import check_weights_path
from ..errors import ESCNetError, first_few
from ..files import sha256
from .finite import check_weights
from .sparse_rows import to_dense

_ZIP_START = b'PK\x03\x04'  # torch itself tells archives from its legacy format by this
# Allowed unpacked size beyond the size of the file: torch compresses nothing but code.
_MAX_UNPACKED = 64 << 20
_DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
)


def read_state_dict(path: str | os.PathLike) -> tuple[dict[str, Tensor], str]:
    """Read a state dict without executing anything from the file.

    The checksums in torch's archives reveal damage. Safetensors and the format of torch < 1.6 have
    none, so a changed number is detected only if it is not finite; for files with a published
    SHA-256 see :func:`.check_sha256`.

    Args:
        path: A ``.safetensors`` file, a file written by ``torch.save`` with the tensors at the top
            level or under ``state_dict``, or a TorchScript archive published by OpenAI.

    Returns:
        The tensors by name, dense and on the CPU, and the format: 'safetensors', 'torchscript' or
        'pickle'.

    Raises:
        ESCNetError: If the file is missing, an address, damaged, could run code, is a decompression
            bomb, or contains anything but named tensors of finite numbers.
    """
    content, file_format = _read(path)
    return _tensors_of(content, Path(path)), file_format


def read_checkpoint(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict]:
    """Read an MMEngine checkpoint, as safely as :func:`read_state_dict`.

    Returns:
        The tensors by name; the checkpoint's ``meta``, empty if there is none.
    """
    content, _ = _read(path)
    meta = content.get('meta') if isinstance(content, Mapping) else None
    return _tensors_of(content, Path(path)), meta if isinstance(meta, dict) else {}


def _read(path: str | os.PathLike) -> tuple[object, str]:
    """The content of a file, and its format."""
    check_weights_path(path, 'weights file')
    path = Path(path)
    try:
        if path.suffix == '.safetensors':
            return load_file(path), 'safetensors'
        if (is_archive := _is_archive(path)) and _check_archive(path) == 'torchscript':
            return torch.jit.load(path, map_location='cpu').state_dict(), 'torchscript'
        # memory-mapped if the format allows it: tensors are read when they are copied
        content = torch.load(
            str(path),  # torch < 2.3 cannot map a Path
            map_location='cpu',
            weights_only=True,
            mmap=is_archive,
        )
    except ESCNetError:
        raise
    except Exception as error:  # a damaged pickle stream may raise anything
        raise _unreadable(path, error) from error
    return content, 'pickle'


def _tensors_of(content: object, path: Path) -> dict[str, Tensor]:
    """The tensors by name, after checking that there is nothing else."""
    if isinstance(content, Mapping) and isinstance(content.get('state_dict'), Mapping):
        content = content['state_dict']
    if not isinstance(content, Mapping):
        raise ESCNetError(
            f'{path} contains a {type(content).__name__} instead of named tensors: give a file '
            'with a state dict.'
        )
    # DataParallel prepends `module.`
    tensors = {str(key).removeprefix('module.'): value for key, value in content.items()}
    if len(tensors) < len(content):
        raise ESCNetError(
            f"{path} contains the same names with and without the prefix 'module.': remove one of "
            'each.'
        )
    for key, value in tensors.items():
        if not isinstance(value, Tensor):
            raise ESCNetError(
                f'{path} contains a {type(value).__name__} under {key!r} instead of a tensor: give '
                'a file with a state dict.'
            )
        _check_kind(value, key, str(path))
    tensors = to_dense(tensors, source=str(path))
    check_weights(tensors, source=str(path))
    return tensors


def _is_archive(path: Path) -> bool:
    with open(path, 'rb') as file:
        return file.read(len(_ZIP_START)) == _ZIP_START


def _check_archive(path: Path) -> str:
    """Check what torch does not: checksums, the unpacked size, and the origin of code.

    Returns:
        'torchscript' or 'pickle'.

    Raises:
        ESCNetError: If it is a decompression bomb, or a TorchScript archive that is not OpenAI's.
        zipfile.BadZipFile: If it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        if size > path.stat().st_size + _MAX_UNPACKED:
            raise ESCNetError(
                f'The weights file {path} unpacks to {size} bytes, too many for tensors in a file '
                'of its size: get it from another source.'
            )
        # torch finds entries case-insensitively
        names = [name.lower() for name in archive.namelist()]
        if any('/code/' in name or name.endswith('constants.pkl') for name in names):
            if sha256(path) not in _openai_digests():
                raise ESCNetError(
                    f'The weights file {path} is a TorchScript archive, which may run code when it '
                    "is read, and is not one of OpenAI's: save its state dict with torch.save or "
                    'as safetensors and use that.'
                )
            return 'torchscript'
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f'the checksum of {damaged} does not match')
    return 'pickle'


def _openai_digests() -> set[str]:
    """SHA-256 of the CLIP archives published by OpenAI, taken from their URLs."""
    models = open_clip.list_pretrained_models_by_tag('openai')
    return {open_clip.get_pretrained_url(model, 'openai').split('/')[-2] for model in models}


def _check_kind(value: Tensor, key: str, source: str) -> None:
    """Refuse tensors without storage of their own, or of a dtype that weights do not have."""
    if value.device.type != 'cpu':
        what = f'is on the device {value.device}'
    elif value.is_quantized or value.dtype not in _DTYPES:
        what = f'is of {value.dtype}'
    elif (
        value.layout == torch.strided
        and value.numel() * value.element_size() > value.untyped_storage().nbytes()
    ):
        what = f'of shape {tuple(value.shape)} has a smaller storage'
    else:
        return
    raise ESCNetError(
        f'{source} contains a tensor {key!r} that {what}: store it as a contiguous float32 tensor.'
    )


def _unreadable(path: Path, error: Exception) -> ESCNetError:
    """What is wrong with a file; PyTorch's own message would advise to run what is in it."""
    text = str(error).strip()
    if isinstance(error, pickle.UnpicklingError):
        if found := re.search(r'\b(?:GLOBAL|class) ([\w.]+)', text):
            return ESCNetError(
                f'The weights file {path} cannot be read, since it contains more than tensors and '
                f'plain data ({found[1]}), which may run code: save its state dict alone, with '
                'torch.save(model.state_dict(), ...), where it was made.'
            )
        text = 'it was not written by torch.save'
    if isinstance(error, KeyError) or not text:
        text = type(error).__name__
    return ESCNetError(
        f'The weights file {path} cannot be read ({text.splitlines()[0][:200]}): it is damaged, '
        'incomplete, or not a file of tensors; download it again.'
    )


def check_fit(
    module: nn.Module, state_dict: Mapping[str, Tensor], *, source: str, prefix: str = ''
) -> None:
    """Check that tensors fit a module: no missing or unexpected keys, the right shapes and kinds.

    Floating-point numbers of any precision are of the same kind, integers of another.

    Args:
        module: The module to load into.
        state_dict: Tensors by name; all names begin with ``prefix``.
        source: What is loaded, for the message.
        prefix: Prefix of the module's own names.

    Raises:
        ESCNetError: Naming missing, unexpected, misshapen or mistyped keys.
    """
    own = {prefix + key: tuple(value.shape) for key, value in module.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state_dict.items()}
    missing = [key for key in own if key not in given]
    unexpected = [key for key in given if key not in own]
    misshapen = [
        f'{key} is {given[key]} instead of {own[key]}'
        for key in own
        if key in given and given[key] != own[key]
    ]
    kinds = {prefix + key: _kind(value) for key, value in module.state_dict().items()}
    mistyped = [
        f'{key} is {value.dtype}'
        for key, value in state_dict.items()
        if key in kinds and _kind(value) != kinds[key]
    ]
    problems = [
        f'{len(keys)} {what} ({first_few(keys)})'
        for keys, what in (
            (missing, 'missing'),
            (unexpected, 'unexpected'),
            (misshapen, 'of another shape'),
            (mistyped, 'of another dtype kind'),
        )
        if keys
    ]
    if problems:
        raise ESCNetError(
            f'{source} does not fit {type(module).__name__}: {"; ".join(problems)}; use weights '
            'for the architecture in the config.'
        )


def _kind(value: Tensor) -> tuple[bool, bool]:
    return value.is_floating_point(), value.is_complex()


def load_strict(
    module: nn.Module, state_dict: Mapping[str, Tensor], *, source: str, prefix: str = ''
) -> None:
    """Load tensors into a module, which they must fit (see :func:`check_fit`).

    Args:
        module: The module to load into.
        state_dict: Tensors by name; those without ``prefix`` are ignored.
        source: What is loaded, for the message.
        prefix: Prefix of the module's names in ``state_dict``.
    """
    state_dict = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
    check_fit(module, state_dict, source=source, prefix=prefix)
    module.load_state_dict({key[len(prefix) :]: v for key, v in state_dict.items()})
