"""Text embeddings that were made before: in memory, and on disk from one process to the next.

Shapes: P phrases, N classes, D CLIP joint width.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import open_clip
import torch
import torch.nn as nn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from ...files import write_file
from ...vocabulary import Vocabulary
from .open_clip_text import OpenCLIPTextEncoder

CACHE_VARIABLE = 'MMSEG_ESCNET_CACHE'
MAX_PHRASES = 20_000  # in memory: 60 MB at a width of 768
MAX_BYTES = 256 * 2**20  # on disk
_LEAST_BYTES = 2**16  # that a file counts as, so that there are 4096 of them at most
# Below it, encoding takes no longer than to read all weights for their digest.
MIN_TEXTS = 512
_TEXTS_AT_A_TIME = 16_384  # bounds memory, and is what an interruption loses
_FORMAT = 1  # of the files; also to be raised when embeddings are computed in another way
_FILE_NAME = re.compile(r'([0-9a-f]{64})-([0-9a-f]{64})\.safetensors')
_LEFT_BEHIND = re.compile(r'\..*\.part')  # by a process that was killed while it wrote
_PROGRESS_AFTER_SECONDS = 3
_HOUR = 3600


def default_folder() -> Path | None:
    """Where embeddings are kept on disk: ``text`` in the folder of :data:`CACHE_VARIABLE`.

    That is ``mmseg_escnet`` in the user's cache folder where the variable is not set, and nowhere
    (None) where it is empty or '0'.
    """
    given = os.environ.get(CACHE_VARIABLE)
    if given in ('', '0'):
        return None
    try:
        if given is not None:
            return Path(given).expanduser() / 'text'
        user_cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
        return Path(user_cache).expanduser() / 'mmseg_escnet' / 'text'
    except RuntimeError:  # a user without a home
        return None


class TextCache:
    """Embeddings of phrases, under all that they depend on.

    ::

        vocabulary --> phrases --> in memory? --> on disk? --> encoder.encode (the CLIP text tower)

    Kept are phrases and not vocabularies, so that a new vocabulary costs its new words alone. An
    embedding depends on the phrase, the templates, the tokenizer, the weights and structure of the
    text tower, the kind of device and the precision of its products; in the last bits also on the
    texts it was encoded together with, as matrix products of other shapes are summed in another
    order (3e-6 of a feature of size 4 were seen).

    In memory the weights are known by their identity: addresses, versions, and sums of the last
    layer, since a version counts the in-place changes of a tensor but not those through ``.data``
    (averaged weights). On disk they are known by the SHA-256 of their bytes.

    A file holds what was encoded in one go and is never changed. Its name is the digest of what
    the embeddings depend on and that of its bytes, so a damaged or misplaced file is noticed, and
    processes that write at the same time cannot disturb each other. What cannot be read is removed
    and made anew; where nothing can be written, all goes on without. The files used last are kept.

    Args:
        folder: Of the files; None keeps embeddings in memory alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._weights: tuple | None = None
        self._embeddings: OrderedDict[tuple, Tensor] = OrderedDict()  # those used last at the end
        self._last: tuple[tuple, Tensor] | None = None

    def text_features(
        self, encoder: OpenCLIPTextEncoder, clip: nn.Module, vocabulary: Vocabulary
    ) -> Tensor:
        """What ``encoder(clip, vocabulary)`` returns, encoding only what is not kept.

        Args:
            encoder: The text encoder.
            clip: open_clip's CustomTextCLIP.
            vocabulary: The class names.

        Returns:
            F_l (N, D), unit norm, without a gradient; not to be changed in place.
        """
        weights = _identity(clip)
        if weights != self._weights:  # the old ones never come back
            self._weights, self._last = weights, None
            self._embeddings.clear()
        key = (_settings(encoder, clip), encoder.phrases(vocabulary))
        if self._last is None or self._last[0] != key:
            # no inference tensor, which a later use with a gradient could not save
            with torch.inference_mode(False), torch.no_grad():
                features = encoder(
                    clip, vocabulary, encode=lambda phrases: self._embed(encoder, clip, phrases)
                )
            self._last = (key, features)
        return self._last[1]

    def _embed(
        self, encoder: OpenCLIPTextEncoder, clip: nn.Module, phrases: Sequence[str]
    ) -> Tensor:
        """Embeddings (P, D) of phrases."""
        settings = _settings(encoder, clip)
        found = {
            phrase: self._embeddings[settings, phrase]
            for phrase in phrases
            if (settings, phrase) in self._embeddings
        }
        missing = [phrase for phrase in dict.fromkeys(phrases) if phrase not in found]
        if missing:
            found.update(self._read_or_encode(encoder, clip, missing))
        for phrase, embedding in found.items():
            self._embeddings[settings, phrase] = embedding
            self._embeddings.move_to_end((settings, phrase))
        while len(self._embeddings) > MAX_PHRASES:
            self._embeddings.popitem(last=False)
        return torch.stack([found[phrase] for phrase in phrases])

    def _read_or_encode(
        self, encoder: OpenCLIPTextEncoder, clip: nn.Module, phrases: list[str]
    ) -> dict[str, Tensor]:
        """Embeddings (D,) of phrases that are not in memory."""
        templates = len(encoder.templates)
        found, key = {}, None
        if self.folder is not None and len(phrases) * templates >= MIN_TEXTS:
            # the digest is not kept: no change of the weights must ever get past it
            key = json.dumps([_FORMAT, _weights_digest(clip), _settings(encoder, clip)])
            rows = self._read(key, phrases, clip.text.output_dim)
            device = clip.logit_scale.device
            found = {phrase: row.to(device, copy=True) for phrase, row in rows.items()}
            phrases = [phrase for phrase in phrases if phrase not in found]
        step = max(1, _TEXTS_AT_A_TIME // templates)
        with tqdm(
            total=len(phrases) * templates,
            desc='text embeddings',
            unit='text',
            delay=_PROGRESS_AFTER_SECONDS,
            leave=False,
            disable=None,
        ) as bar:
            for start in range(0, len(phrases), step):
                part = phrases[start : start + step]
                embeddings = encoder.encode(clip, part, progress=bar.update)
                # copies, or one phrase would keep the whole part in memory
                found.update(zip(part, map(torch.clone, embeddings), strict=True))
                if key is not None:
                    self._write(key, part, embeddings)
        return found

    # -- files -------------------------------------------------------------------------------------

    def _read(self, key: str, phrases: Sequence[str], width: int) -> dict[str, Tensor]:
        """Those phrases that files hold, with their embeddings (D,) on the CPU."""
        wanted, found, damaged = set(phrases), {}, []
        key_digest = _sha256(key.encode())
        try:
            paths = sorted(self.folder.iterdir()) if self.folder.exists() else []
        except OSError as error:
            self._go_without(error)
            return {}
        for path in paths:
            if wanted <= found.keys():
                break
            name = _FILE_NAME.fullmatch(path.name)
            if name is None or name[1] != key_digest:
                continue
            try:
                rows = _read_file(path, key, name[2], width)
                if wanted & rows.keys():
                    os.utime(path)
            except FileNotFoundError:  # another process made room
                continue
            except (OSError, ValueError, LookupError, SafetensorError) as error:
                damaged.append(f'{path.name}: {error}')
                _remove(path)
                continue
            found.update((phrase, rows[phrase]) for phrase in wanted & rows.keys())
        if damaged:
            warnings.warn(
                f'{len(damaged)} file(s) of text embeddings in {self.folder} cannot be used '
                f'({damaged[0]}): the texts are encoded anew.',
                stacklevel=2,
            )
        return found

    def _write(self, key: str, phrases: Sequence[str], embeddings: Tensor) -> None:
        if self.folder is None or not embeddings.isfinite().all():
            return
        content = _encode(key, phrases, embeddings)
        name = f'{_sha256(key.encode())}-{_sha256(content)}.safetensors'
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_file(self.folder / name, content)
            _make_room(self.folder)
        except OSError as error:
            self._go_without(error)

    def _go_without(self, error: OSError) -> None:
        warnings.warn(
            f'Text embeddings cannot be kept in {self.folder} ({error}): they are encoded anew by '
            f'every process; set {CACHE_VARIABLE} to another folder, or to 0 for none.',
            stacklevel=2,
        )
        self.folder = None


def _settings(encoder: OpenCLIPTextEncoder, clip: nn.Module) -> tuple:
    """What embeddings depend on besides phrase and weights."""
    tokenizer = encoder.tokenizer
    return (
        encoder.templates,
        (type(tokenizer).__name__, tokenizer.vocab_size, clip.context_length),
        _structure(clip.text),
        clip.logit_scale.device.type,
        _matmul_precision(),
    )


def _matmul_precision() -> tuple[str, ...]:
    if torch.__version__ < (2, 9):
        return (torch.get_float32_matmul_precision(),)
    # here each library has a setting of its own, and asking for the common one may raise
    libraries = torch.backends.cuda, torch.backends.mkldnn
    settings = (library.matmul.fp32_precision for library in libraries)
    return tuple('ieee' if setting == 'none' else setting for setting in settings)


def _structure(tower: nn.Module) -> tuple:
    """What the weights of a tower do not tell."""
    blocks = tower.transformer.resblocks
    return (
        tuple(block.attn.num_heads for block in blocks),
        tuple(bool(getattr(block.mlp.gelu, 'quick', False)) for block in blocks),
    )


def _identity(clip: nn.Module) -> tuple:
    """What changes whenever the weights of the text tower do, and costs next to nothing."""
    last = clip.text.transformer.resblocks[-1]
    sums = torch.stack([p.detach().float().sum() for p in last.parameters()]).tolist()
    return (
        tuple(
            (t.data_ptr(), t.dtype, 0 if t.is_inference() else t._version)
            for t in chain(clip.text.parameters(), clip.text.buffers())
        ),
        tuple(sums),
    )


def _weights_digest(clip: nn.Module) -> str:
    """SHA-256 of the text tower: its modules, and names, types, shapes and bytes of its tensors."""
    digest = hashlib.sha256(f'open_clip {open_clip.__version__} {clip.text}'.encode())
    for name, tensor in chain(clip.text.named_parameters(), clip.text.named_buffers()):
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        # one after the other: the weights of a GPU need not fit the memory twice
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _encode(key: str, phrases: Sequence[str], embeddings: Tensor) -> bytes:
    metadata = dict(key=key, phrases=json.dumps(list(phrases)))
    return save(dict(embeddings=embeddings.cpu().contiguous()), metadata)


def _read_file(path: Path, key: str, digest: str, width: int) -> dict[str, Tensor]:
    """The embeddings (D,) by phrase that a file holds.

    Raises:
        OSError, ValueError, SafetensorError: If it is not what was written under this key.
    """
    if _sha256(path.read_bytes()) != digest:
        raise ValueError('it is damaged')
    with safe_open(path, framework='pt') as file:
        metadata = file.metadata() or {}
        if metadata.get('key') != key:
            raise ValueError('it holds embeddings of other weights or settings')
        phrases = json.loads(metadata['phrases'])
        embeddings = file.get_tensor('embeddings')
    if embeddings.dtype != torch.float32 or embeddings.shape != (len(phrases), width):
        raise ValueError(f'it holds {tuple(embeddings.shape)} numbers for {len(phrases)} phrases')
    if not embeddings.isfinite().all():
        raise ValueError('it holds numbers that are not finite')
    return dict(zip(phrases, embeddings.unbind(), strict=True))


def _make_room(folder: Path) -> None:
    """Remove the files that were not used for longest, and what killed processes left behind."""
    files, total = [], 0
    for path in folder.iterdir():
        try:
            status = path.stat()
        except FileNotFoundError:  # another process makes room as well
            continue
        if _FILE_NAME.fullmatch(path.name):
            size = max(status.st_size, _LEAST_BYTES)
            files.append((status.st_mtime, path, size))
            total += size
        elif _LEFT_BEHIND.fullmatch(path.name) and time.time() - status.st_mtime > _HOUR:
            _remove(path)
    for _, path, size in sorted(files):
        if total <= MAX_BYTES:
            break
        _remove(path)
        total -= size


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone already, or not ours to remove
        path.unlink()
