"""Download pretrained weights.

    mmseg-escnet download sam-vit-b
    mmseg-escnet download clip --model ViT-B-16 --tag openai
    mmseg-escnet download clip --model EVA02-B-16 --tag merged2b_s8b_b131k

SAM goes to ``data/weights`` and is verified by its SHA-256. An interrupted download starts over; if
one fails, the error message has a ``wget -c`` command that resumes it (ViT-H has 2.6 GB). CLIP goes
to open_clip's own cache, where the configs find it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmseg_escnet.cli import make_parser, run_tool

# command -> published file
SAM_FILES = {
    'sam-vit-b': 'sam_vit_b_01ec64.pth',
    'sam-vit-l': 'sam_vit_l_0b3195.pth',
    'sam-vit-h': 'sam_vit_h_4b8939.pth',
}
_SIZES = {'sam-vit-b': '375 MB', 'sam-vit-l': '1.2 GB', 'sam-vit-h': '2.6 GB'}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    commands = parser.add_subparsers(dest='weights', required=True, metavar='WEIGHTS')
    for name, file_name in SAM_FILES.items():
        sam = commands.add_parser(name, help=f'{file_name}, {_SIZES[name]}')
        sam.add_argument('--out', type=Path, help='folder (default: data/weights)')
    clip = commands.add_parser('clip', help='an open_clip model')
    clip.add_argument('--model', default='ViT-B-16', help='architecture (default: %(default)s)')
    clip.add_argument('--tag', default='openai', help="open_clip's tag (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Download the weights and print their path."""
    args = parse_args(argv)

    from mmseg_escnet.downloads import check_sha256
    from mmseg_escnet.models.clip_weights import find_clip
    from mmseg_escnet.models.sam_weights import OFFICIAL_SAM_FILES, WEIGHTS_DIR, download_sam

    if args.weights == 'clip':
        path, _ = find_clip(args.model, args.tag)
    else:
        file_name = SAM_FILES[args.weights]
        folder = args.out or WEIGHTS_DIR
        if (folder / file_name).is_file():
            print(f'{folder / file_name} exists: verifying it', file=sys.stderr)
            check_sha256(folder / file_name, OFFICIAL_SAM_FILES[file_name])
        path = download_sam(file_name, folder)
    print(path)


if __name__ == '__main__':
    run_tool(main, interrupted='run the same command again')
