"""Downloads of published files, verified by their SHA-256."""

from __future__ import annotations

import http.client
import os
import re
import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .config import is_url
from .errors import ESCNetError
from .files import sha256

# the date and the digest that `mmseg-escnet publish` puts into names
_DIGEST = re.compile(r'_\d{8}-([0-9a-f]{8,64})\.\w+$')


def check_sha256(path: str | os.PathLike, expected: str) -> None:
    """Check that a file is the published one.

    Args:
        path: The file.
        expected: Its SHA-256, or the beginning of it.

    Raises:
        ESCNetError: If the digest differs.
    """
    actual = sha256(path)
    if not actual.startswith(expected):
        raise ESCNetError(
            f'{path} is not the published file: its SHA-256 is {actual}, not {expected}; '
            'delete it and download it again.'
        )


def download(url: str, target: str | os.PathLike, *, expected_sha256: str | None = None) -> Path:
    """Download a file; it appears under its name only when it is complete and verified.

    Args:
        url: URL of the file.
        target: Destination; an existing file is kept.
        expected_sha256: The published digest, or the beginning of it, if known.

    Returns:
        The path of the file.

    Raises:
        ESCNetError: If the server cannot be reached, or the file is not the published one.
    """
    target = Path(target)
    if target.exists():
        return target
    import torch

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target), hash_prefix=expected_sha256)
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # the last: wrong hash
        by_hand = shlex.join(['wget', '-c', '-O', str(target), url])
        raise ESCNetError(
            f'Cannot download {url} ({str(error).strip()}): check the network and run the same '
            f'command again, or get the file yourself: {by_hand}'
        ) from error
    return target


def fetch(source: str | os.PathLike, digest: str | None = None) -> Path:
    """The file of a path or URL, verified by the digest that is given or in its name.

    Args:
        source: A path; or a URL, which is downloaded into the cache of ``torch.hub``.
        digest: Its SHA-256. By default the digits in a name like those that ``mmseg-escnet
            publish`` makes, ``NAME_20261130-0123abcd.safetensors``; a path without is not verified.

    Returns:
        The path of the file.

    Raises:
        ESCNetError: If there is no such file, its digest differs, or a URL has none.
    """
    digest = digest and digest.lower()
    if digest and not re.fullmatch('[0-9a-f]{64}', digest):
        raise ESCNetError(f'The SHA-256 {digest!r} is not 64 hexadecimal digits: copy all of it.')
    name = Path(unquote(urlsplit(source).path)).name if is_url(source) else Path(source).name
    if digest is None and (found := _DIGEST.search(name)):
        digest = found[1]
    if not is_url(source):
        if digest is not None and Path(source).is_file():
            check_sha256(source, digest)
        return Path(source)
    if digest is None:
        raise ESCNetError(
            f'The name of {source} has no digest, so that nothing can verify it: give its SHA-256, '
            'sha256=... in Python or --sha256 of a command.'
        )
    import torch

    path = Path(torch.hub.get_dir(), 'checkpoints', name)
    if path.is_file() and not sha256(path).startswith(digest):
        path.unlink()
    return download(source, path, expected_sha256=digest)
