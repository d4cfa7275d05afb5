"""Inference files: weights, config and words in one file, without anything that is for training.

A safetensors file whose metadata contain two JSON texts: ``config`` (``model`` and
``test_pipeline``) and ``dataset_meta`` (``classes``, ``palette``, and ``phrases`` that stand for
the classes). Reading it executes nothing.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader
from mmseg.registry import MODELS
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..config import (
    forget_pretrained,
    is_inference_file,
    pipeline_steps,
    read_config,
)
from ..errors import ESCNetError
from ..files import sha256
from ..models.weights import load_strict, read_checkpoint, read_state_dict
from ..preflight import is_checkable
from ..version import __version__
from ..vocabulary import Vocabulary

_CONFIG, _WORDS = 'config', 'dataset_meta'
_MAX_TEXT = 1 << 20
_KEYS = {'model', 'test_pipeline', 'default_scope'}
# Building the model would load something else: names of open_clip or timm can be addresses, and
# text towers of the Hugging Face hub are downloaded.
_NAMES = ('model_name', 'timm_model_name')
_FETCHING = ('pretrained', 'sam_pretrained', 'timm_model_pretrained', 'init_cfg', '_scope_')


def encode_inference_file(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    *,
    vocabulary: Vocabulary | None = None,
    dtype: torch.dtype = torch.float32,
) -> bytes:
    """Make an inference file of a trained checkpoint.

    Args:
        config: Path of a config, or a config.
        checkpoint: Its weights, as training writes them; nothing in it is executed.
        vocabulary: The default words of the file; None for those of the checkpoint.
        dtype: How the weights are stored: float32, or float16 or bfloat16 for half the size.
            Computation is float32 either way.

    Returns:
        The bytes of the file, always the same for the same input.

    Raises:
        ESCNetError: If config and checkpoint cannot be read or do not fit, there are no words, or
            a weight is too large for ``dtype``.
    """
    cfg = read_config(config)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    model = copy.deepcopy(cfg.model)
    forget_pretrained(model)
    content = dict(model=model, test_pipeline=pipeline_steps(cfg), default_scope='mmseg')
    try:
        text = json.dumps(content)
    except TypeError as error:
        raise ESCNetError(
            f'The config contains something other than plain values ({error}): name types as '
            'strings.'
        ) from error
    _check_config(json.loads(text), 'The config')
    weights, its_vocabulary = read_weights(checkpoint)
    model = MODELS.build(Config(json.loads(text)).model)
    load_strict(model, weights, source=str(checkpoint))
    vocabulary = vocabulary or its_vocabulary
    if vocabulary is None:
        raise ESCNetError(f'{checkpoint} has no class names: give them as vocabulary.')
    stored = {}
    for key, value in model.state_dict().items():
        stored[key] = (value.to(dtype) if value.is_floating_point() else value).contiguous().clone()
        if not stored[key].isfinite().all():
            raise ESCNetError(
                f'Values of {key!r} in {checkpoint} exceed the range of {dtype}: store the weights '
                'as float32.'
            )
    metadata = {
        'format': 'pt',
        'mmseg_escnet': __version__,
        'source_sha256': sha256(checkpoint),
        _CONFIG: text,
        _WORDS: json.dumps(vocabulary.dataset_meta | dict(phrases=vocabulary.synonyms)),
    }
    return _with_sorted_metadata(save(stored, metadata=metadata))


def _with_sorted_metadata(content: bytes) -> bytes:
    """Safetensors' own order is another one each time, and so would be the digest of the file."""
    start = 8 + int.from_bytes(content[:8], 'little')
    header = json.loads(content[8:start])
    header['__metadata__'] = dict(sorted(header['__metadata__'].items()))
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)  # numbers begin at multiples of 8
    return b''.join([len(text).to_bytes(8, 'little'), text, memoryview(content)[start:]])


def read_inference_config(path: str | os.PathLike) -> Config:
    """The config in an inference file.

    Returns:
        A config with ``model``, ``test_pipeline`` and ``default_scope``.

    Raises:
        ESCNetError: If it is not such a file, or its config would load anything else.
    """
    content = _read_json(path, _CONFIG)
    if content is None:
        raise ESCNetError(
            f'{path} has no config in it, so it is not an inference file: also give a config, or '
            'make one with mmseg-escnet publish.'
        )
    _check_config(content, f'The config in {path}')
    return Config(content)


def read_weights(path: str | os.PathLike) -> tuple[dict[str, Tensor], Vocabulary | None]:
    """Read a checkpoint, an inference file, or a file of weights alone, once.

    Returns:
        The tensors by name; the words stored with them, None if there are none.

    Raises:
        ESCNetError: If the file is damaged, or contains more than tensors and plain values.
    """
    if is_inference_file(path):
        return read_state_dict(path)[0], read_words(path)
    tensors, meta = read_trained(path)
    return tensors, _vocabulary(meta.get('dataset_meta'))


def read_trained(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the ``meta`` of a checkpoint as training writes it.

    Raises:
        ESCNetError: As :func:`read_weights`.
    """
    path = os.fspath(path)
    if is_checkable(path):
        return read_checkpoint(path)
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    tensors, meta = checkpoint.get('state_dict', checkpoint), checkpoint.get('meta') or {}
    return {key.removeprefix('module.'): value for key, value in tensors.items()}, meta


def read_words(path: str | os.PathLike) -> Vocabulary | None:
    """The words in an inference file; None if it has none.

    Raises:
        ESCNetError: If it is damaged.
    """
    return _vocabulary(_read_json(path, _WORDS))


def _vocabulary(dataset_meta: Mapping | None) -> Vocabulary | None:
    if not isinstance(dataset_meta, Mapping) or not dataset_meta.get('classes'):
        return None
    return Vocabulary.create(
        list(dataset_meta['classes']), dataset_meta.get('palette'), dataset_meta.get('phrases')
    )


def _read_json(path: str | os.PathLike, key: str) -> dict | None:
    """An object in the metadata of a file; None if it has none under this key."""
    if not Path(path).is_file():
        raise ESCNetError(f'The inference file {path} does not exist: check the path.')
    try:
        with safe_open(path, 'pt') as file:
            text = (file.metadata() or {}).get(key)
    except (SafetensorError, OSError) as error:
        raise ESCNetError(f'{path} cannot be read ({error}): get it again.') from error
    if text is None:
        return None
    try:
        if len(text) > _MAX_TEXT:
            raise ValueError(f'it has more than {_MAX_TEXT} characters')
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError(f'it is a {type(content).__name__}, not an object')
    except (ValueError, RecursionError) as error:
        raise ESCNetError(f'The {key} in {path} is damaged ({error}): get it again.') from error
    return content


def _check_config(content: dict, source: str) -> None:
    """Refuse a config that would import, download or load anything when it is built."""
    model = content.get('model')
    is_model = isinstance(model, dict) and model.get('type') in ('ESCNet', 'CLIPReadout')
    if not is_model or not isinstance(content.get('test_pipeline'), list) or set(content) != _KEYS:
        raise ESCNetError(
            f'{source} is not one of an ESCNet (model, test_pipeline), and inference files contain '
            'nothing else.'
        )
    nodes = [content]
    while nodes:
        node = nodes.pop()
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if (
                # MMEngine imports the module of a type with dots
                (key == 'type' and not (isinstance(value, str) and value.isidentifier()))
                or (key in _NAMES and not re.fullmatch(r'[\w.-]+', str(value)))
                or (key in _FETCHING and value)
                or (key == 'default_scope' and value != 'mmseg')
                or (isinstance(key, str) and key.startswith('hf_'))
            ):
                raise ESCNetError(
                    f'{source} has {key}={value!r:.60}, which would load something from elsewhere: '
                    'only types of MMSegmentation and of this package may be named, and all '
                    'weights are in the file itself.'
                )
            if isinstance(value, (dict, list)):
                nodes.append(value)
