"""Pack a trained checkpoint into one portable file with weights, config and words.

    python tools/model_converters/make_inference_file.py \
        configs/escnet/escnet_vitb16_coco-stuff.py \
        work_dirs/escnet_vitb16_coco-stuff/iter_80000.pth escnet_vitb16.safetensors --half

``OpenVocabInferencer('escnet_vitb16.safetensors')`` and ``tools/infer.py --checkpoint
escnet_vitb16.safetensors`` need nothing else. State that only training needs is left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmseg_escnet.cli import add_cfg_options, make_parser, run_tool
from mmseg_escnet.config import INFERENCE_SUFFIX, is_inference_file, read_config
from mmseg_escnet.errors import ESCNetError


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config that the checkpoint was trained with')
    parser.add_argument('checkpoint', type=Path, help='trained checkpoint')
    parser.add_argument('out', type=Path, help='file to write, .safetensors')
    parser.add_argument(
        '--half', action='store_true', help='store weights as float16: half the size'
    )
    parser.add_argument(
        '--classes-file',
        type=Path,
        help='default words of the file (.txt, .json, .yaml); by default those of the training',
    )
    parser.add_argument('--force', action='store_true', help='overwrite the file if it exists')
    add_cfg_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Encode the file, write it and print a summary."""
    args = parse_args(argv)
    if not is_inference_file(args.out):
        raise ESCNetError(f'The output file {args.out} must end in {INFERENCE_SUFFIX}: rename it.')
    if args.out.exists() and (not args.force or args.out.is_dir()):
        raise ESCNetError(f'{args.out} exists: give another name, or --force to overwrite a file.')

    import torch

    from mmseg_escnet.apis.inference_file import encode_inference_file
    from mmseg_escnet.apis.query import Query
    from mmseg_escnet.files import write_file

    words = None if args.classes_file is None else Query.create(args.classes_file).vocabulary
    content = encode_inference_file(
        read_config(args.config, args.cfg_options),
        args.checkpoint,
        vocabulary=words,
        dtype=torch.float16 if args.half else torch.float32,
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_file(args.out, content)
    before = args.checkpoint.stat().st_size
    print(f'{args.checkpoint} ({before / 1e6:.1f} MB) -> {args.out} ({len(content) / 1e6:.1f} MB)')
    print(f'Use it with: mmseg-escnet infer IMAGE --checkpoint {args.out}')


if __name__ == '__main__':
    run_tool(main)
