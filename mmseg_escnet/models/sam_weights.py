"""SAM checkpoints: finding, downloading and loading the part that ESC-Net uses."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch.nn as nn
from torch import Tensor

from ..config import is_url
from ..downloads import check_sha256, download
from ..errors import ESCNetError
from .weights import load_strict, read_state_dict

_URL = 'https://dl.fbaipublicfiles.com/segment_anything/'
# published file -> SHA-256
OFFICIAL_SAM_FILES = {
    'sam_vit_b_01ec64.pth': 'ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912',
    'sam_vit_l_0b3195.pth': '3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622',
    'sam_vit_h_4b8939.pth': 'a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e',
}
_PROMPT_ENCODER = 'prompt_encoder.'
_TRANSFORMER = 'mask_decoder.transformer.'
_LAYERS = _TRANSFORMER + 'layers.'
# parts of the transformer after its layers, which do not affect the image tokens
_UNUSED = ('final_attn_token_to_image.', 'norm_final_attn.')
WEIGHTS_DIR = Path('data/weights')


def download_sam(file_name: str, folder: str | Path = WEIGHTS_DIR) -> Path:
    """Download an official SAM checkpoint and check its SHA-256."""
    return download(
        _URL + file_name,
        Path(folder) / file_name,
        expected_sha256=OFFICIAL_SAM_FILES[file_name],
    )


def find_sam(source: str, *, verify: bool = True, allow_download: bool = True) -> Path:
    """Find a SAM checkpoint.

    Args:
        source: A path, or an http(s) URL, which is downloaded to ``data/weights``.
        verify: Check the SHA-256 of a file with an official name.
        allow_download: Download a URL.

    Returns:
        The path of the file.

    Raises:
        ESCNetError: If it does not exist or is not the published file.
    """
    if is_url(source):
        name = source.rsplit('/', 1)[-1]
        path = WEIGHTS_DIR / name
        if allow_download:
            download(source, path, expected_sha256=OFFICIAL_SAM_FILES.get(name))
    else:
        path = Path(source)
    if not path.is_file():
        options = 'sam-vit-b'
        if path.name in OFFICIAL_SAM_FILES:
            options = path.name[: len('sam_vit_b')].replace('_', '-')
            if path.parent != WEIGHTS_DIR:
                options += f' --out {shlex.quote(str(path.parent))}'
        raise ESCNetError(
            f'The SAM checkpoint {path} does not exist: get it with '
            f'`mmseg-escnet download {options}`, or set model.neck.sam_pretrained to '
            'the path of another one (None trains from random SAM weights).'
        )
    if verify and path.name in OFFICIAL_SAM_FILES:
        check_sha256(path, OFFICIAL_SAM_FILES[path.name])
    return path


def sam_decoder_state_dict(state_dict: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The part of a SAM checkpoint that ESC-Net uses, in SAM's own key layout.

    Args:
        state_dict: A complete SAM (ViT-B, L or H: the same decoder shapes), or this part of one.
        source: Its name, for the message.

    Returns:
        ``prompt_encoder.*`` and the layers of ``mask_decoder.transformer.*``.

    Raises:
        ESCNetError: If there is no such part.
    """
    part = {
        key: value
        for key, value in state_dict.items()
        if key.startswith(_PROMPT_ENCODER)
        or (key.startswith(_TRANSFORMER) and not key[len(_TRANSFORMER) :].startswith(_UNUSED))
    }
    if not part:
        raise ESCNetError(
            f'{source} is not a SAM checkpoint: no key begins with {_PROMPT_ENCODER!r} or '
            f'{_TRANSFORMER!r}; give the path of a SAM checkpoint.'
        )
    unexpected = [key for key in part if not key.startswith((_PROMPT_ENCODER, _LAYERS))]
    if unexpected:
        raise ESCNetError(
            f'{source} is not a SAM checkpoint: the key {unexpected[0]!r} does not belong to SAM; '
            'give the path of an official checkpoint.'
        )
    return part


def load_sam_decoder(
    source: str,
    *,
    prompt_encoder: nn.Module,
    transformer_layers: Sequence[nn.ModuleDict],
    depth: int = 2,
) -> None:
    """Load SAM's prompt encoder and decoder transformer, strictly.

    Args:
        source: Path or URL of a SAM checkpoint or of the extracted decoder part.
        prompt_encoder: ``segment_anything``'s PromptEncoder.
        transformer_layers: For each of our copies of the TwoWayTransformer, its layers by their
            number in the checkpoint.
        depth: Number of SAM's layers, all of which must be in the checkpoint, used or not.

    Raises:
        ESCNetError: Naming what is missing, unexpected or misshapen.
    """
    path = find_sam(str(source))
    part = sam_decoder_state_dict(read_state_dict(path)[0], str(path))

    numbers = {key[len(_LAYERS) :].split('.')[0]: key for key in part if key.startswith(_LAYERS)}
    if unexpected := [
        key for number, key in numbers.items() if number not in map(str, range(depth))
    ]:
        raise ESCNetError(
            f'{path} does not fit a SAM decoder of {depth} layers: 1 unexpected ({unexpected[0]}); '
            'give the path of an official checkpoint.'
        )
    if missing := [str(number) for number in range(depth) if str(number) not in numbers]:
        raise ESCNetError(
            f'{path} does not fit a SAM decoder of {depth} layers: layer {missing[0]} is missing '
            f'({_LAYERS}{missing[0]}.*); give the path of an official checkpoint.'
        )
    load_strict(prompt_encoder, part, source=str(path), prefix=_PROMPT_ENCODER)
    for layers in transformer_layers:
        for number, layer in layers.items():
            load_strict(layer, part, source=str(path), prefix=f'{_LAYERS}{number}.')
