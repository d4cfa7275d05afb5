"""Reading weights that others made: found or fetched, checked, never executed, loaded strictly."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn as nn
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from ..errors import ESCNetError
from ..files import sha256
from .sparse_rows import to_dense

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 20
_NAMED_KEYS = 5
_ZIP_START = b'PK\x03\x04'  # by which torch itself tells its archives from its older files
# What entries of an archive may unpack to beyond the size of the file: torch packs code alone.
_MAX_UNPACKED = 64 << 20
# TorchScript calls methods of this name while a file is read, and they may write files.
_RUNS_WHEN_READ = b'__setstate__'
_DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
)


def check_sha256(path: str | os.PathLike, expected: str) -> None:
    """Refuse a file whose content is not the published one.

    Raises:
        ESCNetError: If the digest differs.
    """
    actual = sha256(path)
    if actual != expected:
        raise ESCNetError(
            f'{path} is not the published file: its SHA-256 is {actual}, not {expected}; '
            'delete it and download it again.'
        )


def download(url: str, target: str | os.PathLike, *, expected_sha256: str | None = None) -> Path:
    """Download a file; an interrupted download goes on where it stopped.

    The bytes collect in ``<target>.part``, which becomes ``target`` when whole and checked.

    Args:
        url: Where the file is.
        target: Where it goes; nothing is done if it exists.
        expected_sha256: The published digest, if known.

    Returns:
        The path of the whole file.

    Raises:
        ESCNetError: If the server cannot be reached, or the file is not the published one.
    """
    target = Path(target)
    if target.exists():
        return target
    part = target.with_name(target.name + '.part')
    offset = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={'Range': f'bytes={offset}-'} if offset else {})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            resumed = response.status == 206
            length = int(response.headers.get('Content-Length', 0))
            start = offset if resumed else 0
            bar = tqdm(
                total=start + length or None,
                initial=start,
                unit='B',
                unit_scale=True,
                desc=target.name,
            )
            with open(part, 'ab' if resumed else 'wb') as file, bar:
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        if length and part.stat().st_size != start + length:
            raise OSError(f'the connection ended after {part.stat().st_size} bytes')
    except urllib.error.HTTPError as error:
        # 416: nothing is left to send; either the file was whole already or it is another one
        if error.code != 416 or error.headers.get('Content-Range') != f'bytes */{offset}':
            if error.code == 416:
                part.unlink()
            raise ESCNetError(
                f'Cannot download {url} ({error}): check the address and run the same command '
                'again.'
            ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, 'reason', error)
        raise ESCNetError(
            f'Cannot download {url} ({reason}): check the network and run the same command '
            f'again, or put the file at {target} yourself.'
        ) from error
    if expected_sha256 is not None:
        try:
            check_sha256(part, expected_sha256)
        except ESCNetError:
            part.unlink()
            raise
    os.replace(part, target)
    return target


def read_state_dict(path: str | os.PathLike) -> tuple[dict[str, Tensor], str]:
    """Read a state dict without executing anything from the file.

    Damage is noticed by the checksums of torch's archives. Safetensors and the files of torch
    before 1.6 have none: there a changed number is noticed only if it is no longer finite, so for
    files of which a SHA-256 is published see :func:`check_sha256`.

    Args:
        path: A ``.safetensors`` file, a TorchScript archive (OpenAI's CLIP), or what
            ``torch.save`` wrote, with the tensors at the top or under ``state_dict``.

    Returns:
        The tensors by name, dense and on the CPU, and the format: 'safetensors', 'torchscript',
        'pickle'.

    Raises:
        ESCNetError: If the file is missing, damaged, would run code or unpack to a giant, or holds
            anything but tensors of finite numbers by name.
    """
    path = Path(path)
    if not path.is_file():
        raise ESCNetError(f'The weights file {path} does not exist: check the path.')
    try:
        if path.suffix == '.safetensors':
            content, file_format = load_file(path), 'safetensors'
        elif (is_archive := _is_archive(path)) and _check_archive(path):
            content = torch.jit.load(path, map_location='cpu').state_dict()
            file_format = 'torchscript'
        else:
            # mapped where the format allows it: the tensors are read when they are copied
            content = torch.load(
                str(path),  # torch < 2.3 maps no Path
                map_location='cpu',
                weights_only=True,
                mmap=is_archive,
            )
            file_format = 'pickle'
    except ESCNetError:
        raise
    except Exception as error:  # there is no end to what a damaged pickle stream raises
        raise _unreadable(path, error) from error
    if isinstance(content, Mapping) and isinstance(content.get('state_dict'), Mapping):
        content = content['state_dict']
    if not isinstance(content, Mapping):
        raise ESCNetError(
            f'{path} holds a {type(content).__name__} and not tensors by name: give a file with '
            'a state dict.'
        )
    # `module.` is left by DataParallel
    tensors = {str(key).removeprefix('module.'): value for key, value in content.items()}
    if len(tensors) < len(content):
        raise ESCNetError(
            f"{path} holds tensors with and without 'module.' before the same name: remove one of "
            'each.'
        )
    for key, value in tensors.items():
        if not isinstance(value, Tensor):
            raise ESCNetError(
                f'{path} holds a {type(value).__name__} under {key!r} and not a tensor: give a '
                'file with a state dict.'
            )
        _check_kind(value, key, str(path))
    tensors = to_dense(tensors, source=str(path))
    for key, value in tensors.items():
        _check_numbers(value, key, str(path))
    return tensors, file_format


def _is_archive(path: Path) -> bool:
    with open(path, 'rb') as file:
        return file.read(len(_ZIP_START)) == _ZIP_START


def _check_archive(path: Path) -> bool:
    """Check what torch does not: checksums, the size when unpacked, and code that would run.

    Returns:
        Whether the archive is one of TorchScript.

    Raises:
        ESCNetError: If it is larger than it looks, or has code that runs when it is read.
        zipfile.BadZipFile: If it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        if size > path.stat().st_size + _MAX_UNPACKED:
            raise ESCNetError(
                f'The weights file {path} unpacks to {size} bytes, which no file of tensors does: '
                'get it from somewhere else.'
            )
        # torch finds entries whatever the case of their names
        names = [name.lower() for name in archive.namelist()]
        is_script = any('/code/' in name or name.endswith('/constants.pkl') for name in names)
        for entry, name in zip(archive.infolist(), names, strict=True):
            is_code = is_script and name.endswith('.py')
            with archive.open(entry) as content:
                before = b''
                while chunk := content.read(_CHUNK):  # at the end it compares the checksums
                    if is_code and _RUNS_WHEN_READ in before + chunk:
                        raise ESCNetError(
                            f'The weights file {path} has code that runs when it is read '
                            f'({_RUNS_WHEN_READ.decode()}): give a file of tensors alone, such as '
                            'safetensors.'
                        )
                    before = chunk[-len(_RUNS_WHEN_READ) :]
    return is_script


def _check_kind(value: Tensor, key: str, source: str) -> None:
    """Refuse tensors that have no numbers of their own, or not those of weights."""
    if value.device.type != 'cpu':
        what = f'is on the device {value.device}'
    elif value.is_quantized or value.dtype not in _DTYPES:
        what = f'is of {value.dtype}'
    elif (
        value.layout == torch.strided
        and value.numel() * value.element_size() > value.untyped_storage().nbytes()
    ):
        what = f'of shape {tuple(value.shape)} repeats fewer numbers'
    else:
        return
    raise ESCNetError(
        f'{source} holds a tensor under {key!r} that {what}: store it as a whole float32 tensor.'
    )


def _check_numbers(value: Tensor, key: str, source: str) -> None:
    if value.is_floating_point() and not value.isfinite().all():
        count = int((~value.isfinite()).sum())
        raise ESCNetError(
            f'{source} holds {count} of {value.numel()} numbers that are not finite (NaN or Inf) '
            f'under {key!r}: the training that wrote it diverged, or the file is damaged; give '
            'another one.'
        )


def _unreadable(path: Path, error: Exception) -> ESCNetError:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return ESCNetError(
        f'The weights file {path} cannot be read ({first_line}): it is damaged, incomplete, or '
        'not a file of tensors; download it again.'
    )


def check_fit(
    module: nn.Module, state_dict: Mapping[str, Tensor], *, source: str, prefix: str = ''
) -> None:
    """Check that tensors fit a module: every key is there, known, and of the right shape and kind.

    Floating point numbers of any precision are of one kind, whole numbers of another.

    Args:
        module: The module to be filled.
        state_dict: Tensors by name, which begins with ``prefix``.
        source: What is being loaded, for the message.
        prefix: What comes before the module's own names.

    Raises:
        ESCNetError: Naming the missing, unexpected, misshapen or mistyped keys.
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
        f'{len(keys)} {what} ({_some(keys)})'
        for keys, what in (
            (missing, 'missing'),
            (unexpected, 'unexpected'),
            (misshapen, 'of another shape'),
            (mistyped, 'of another kind of number'),
        )
        if keys
    ]
    if problems:
        raise ESCNetError(
            f'{source} does not fit {type(module).__name__}: of its keys, '
            f'{"; ".join(problems)}; use weights of the architecture in the config.'
        )


def _kind(value: Tensor) -> tuple[bool, bool]:
    return value.is_floating_point(), value.is_complex()


def load_strict(
    module: nn.Module, state_dict: Mapping[str, Tensor], *, source: str, prefix: str = ''
) -> None:
    """Load tensors into a module that they must fit (see :func:`check_fit`).

    Args:
        module: The module to fill.
        state_dict: Tensors by name.
        source: What is being loaded, for the message.
        prefix: What the names in the file begin with; they are ours with it taken off.
    """
    state_dict = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
    check_fit(module, state_dict, source=source, prefix=prefix)
    module.load_state_dict({key[len(prefix) :]: v for key, v in state_dict.items()})


def _some(items: list[str]) -> str:
    shown = ', '.join(items[:_NAMED_KEYS])
    return shown if len(items) <= _NAMED_KEYS else f'{shown}, ...'
