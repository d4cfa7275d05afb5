"""Extract the part of a SAM checkpoint that ESC-Net uses (375 MB -> 13 MB).

    python tools/model_converters/extract_sam_decoder.py \
        data/weights/sam_vit_b_01ec64.pth data/weights/sam_vit_b_decoder.safetensors

It has the prompt encoder and the layers of the mask decoder's transformer, under SAM's own names.
Use it with ``--cfg-options model.neck.sam_pretrained=...``. The suffix, .safetensors or .pth,
determines the format.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from mmseg_escnet.cli import make_parser, run_tool
from mmseg_escnet.errors import ESCNetError

_SUFFIXES = ('.safetensors', '.pth')


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('sam', type=Path, help='SAM checkpoint (ViT-B, L or H)')
    parser.add_argument('out', type=Path, help='file to write, .safetensors or .pth')
    parser.add_argument('--force', action='store_true', help='overwrite the file if it exists')
    return parser.parse_args(argv)


def encode(part: dict, metadata: dict[str, str], suffix: str) -> bytes:
    """The bytes of a weights file.

    Args:
        part: Tensors by name.
        metadata: Their origin.
        suffix: '.safetensors', or '.pth' for ``torch.save``.
    """
    import torch
    from safetensors.torch import save

    part = {key: value.contiguous().clone() for key, value in part.items()}
    if suffix == '.safetensors':
        return save(part, metadata=metadata)
    buffer = io.BytesIO()
    torch.save({'state_dict': part, 'meta': metadata}, buffer)
    return buffer.getvalue()


def main(argv: list[str] | None = None) -> None:
    """Extract the weights, write them and print a summary."""
    args = parse_args(argv)
    if args.out.suffix not in _SUFFIXES:
        raise ESCNetError(
            f'The output file {args.out} must end in .safetensors or .pth: rename it.'
        )
    if args.out.is_dir():
        raise ESCNetError(f'{args.out} is a folder: give the name of a file in it.')
    if args.out.exists() and (not args.force or args.out.samefile(args.sam)):
        raise ESCNetError(
            f'{args.out} exists: give another name'
            + ('.' if args.force else ', or --force to overwrite it.')
        )

    from mmseg_escnet.files import sha256, write_file
    from mmseg_escnet.models.sam_weights import find_sam, sam_decoder_state_dict
    from mmseg_escnet.models.weights import read_state_dict

    source = find_sam(str(args.sam))
    part = sam_decoder_state_dict(read_state_dict(source)[0], str(source))
    metadata = {'source': source.name, 'source_sha256': sha256(source)}
    content = encode(part, metadata, args.out.suffix)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_file(args.out, content)
    print(
        f'{source} ({source.stat().st_size / 1e6:.1f} MB) -> '
        f'{args.out} ({len(content) / 1e6:.1f} MB, {len(part)} tensors)'
    )
    print(f'Use it with: --cfg-options model.neck.sam_pretrained={args.out}')


if __name__ == '__main__':
    run_tool(main)
