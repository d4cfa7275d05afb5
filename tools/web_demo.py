"""Segment your pictures into your words in the browser: python tools/web_demo.py

Serves a page on this machine alone. Without --config and --checkpoint it is the miniature model of
the toy world, which needs no download.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

from mmseg_escnet.cli import run_tool
from mmseg_escnet.cli_words import add_model_arguments, choose_model

_LOOPBACK = ('127.0.0.1', 'localhost', '::1')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    parser.add_argument(
        '--host', default='127.0.0.1', help='address to bind to (default: 127.0.0.1)'
    )
    parser.add_argument('--port', type=int, help='default: the first free one from 7860 on')
    parser.add_argument(
        '--max-pixels',
        type=int,
        default=40_000_000,
        help='refuse larger pictures (default: 40000000)',
    )
    parser.add_argument(
        '--max-words', type=int, default=1000, help='refuse more words at a time (default: 1000)'
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Load the model and serve the page until Ctrl-C."""
    args = parse_args(argv)
    from mmseg_escnet.web.page import build_page, launch_page  # says what is missing, if so

    # the one is of MMSegmentation's own making, the other stands on the page
    warnings.filterwarnings('ignore', message='The only class is')
    from mmseg_escnet.apis.inferencer import OpenVocabInferencer
    from mmseg_escnet.web.desk import Desk
    from mmseg_escnet.web.form import toy_examples

    segmenter = OpenVocabInferencer(*choose_model(args), args.device)
    desk = Desk(segmenter, max_pixels=args.max_pixels, max_words=args.max_words)
    if args.checkpoint is None:
        note = (
            'This is the miniature model of the toy world. It knows drawings of coloured shapes '
            '(*red heart*, *cyan ring*, *white star*) on textured ground (*wood*, *water*, '
            '*brick*), and no photographs.'
        )
        page = build_page(desk, note=note, examples=toy_examples())
    else:
        page = build_page(desk)
    url = launch_page(page, host=args.host, port=args.port)
    if args.host not in _LOOPBACK:
        print(f'note: without a password for whoever reaches this machine at {args.host}')
    print(f'The page is at {url} (Ctrl-C ends it)', flush=True)
    page.block_thread()


if __name__ == '__main__':
    run_tool(main)
