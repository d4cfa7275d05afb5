"""Downloads of published weights, verified by their SHA-256."""

import http.client
import os
import shlex
from pathlib import Path

import torch

from ..errors import ESCNetError
from ..files import sha256


def check_sha256(path: str | os.PathLike, expected: str) -> None:
    """Check that a file is the published one.

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
    """Download a file; it appears under its name only when it is complete and verified.

    Args:
        url: URL of the file.
        target: Destination; an existing file is kept.
        expected_sha256: The published digest, if known.

    Returns:
        The path of the file.

    Raises:
        ESCNetError: If the server cannot be reached, or the file is not the published one.
    """
    target = Path(target)
    if target.exists():
        return target
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
