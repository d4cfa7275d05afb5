"""Segment your pictures into your words in the browser: mmseg-escnet web

Serves a page on this machine only. The default model is the miniature one of the toy world, which
needs no download.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmseg_escnet.cli import (
    add_model_arguments,
    check_files,
    choose_model,
    import_components,
    make_parser,
    run_tool,
)

_TOY_NOTE = (
    'This is the miniature model of the toy world. It knows drawings of coloured shapes (*red '
    'heart*, *cyan ring*) on textured ground (*wood*, *water*, *brick*), not photographs.'
)
_CLIP = 'ViT-B-16'
_CLIP_NOTE = (
    'This is CLIP alone, without ESC-Net: no training, photographs and any words, coarse borders.'
)
_HOW_TO_GET_CLIP = (
    f'For photographs, start the page with `--clip {_CLIP}`, which downloads CLIP once (600 MB).'
)
_LOOPBACK = ('127.0.0.1', 'localhost', '::1')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument(
        '--host', default='127.0.0.1', help='address to bind to (default: %(default)s)'
    )
    parser.add_argument('--port', type=int, help='default: the first free port from 7860')
    parser.add_argument(
        '--max-pixels',
        type=int,
        default=40_000_000,
        help='refuse larger pictures (default: %(default)s)',
    )
    parser.add_argument(
        '--max-words',
        type=int,
        default=1000,
        help='refuse more words at a time (default: %(default)s)',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Load the model and serve the page until Ctrl-C."""
    args = parse_args(argv)
    check_files(args)
    import_components()
    from mmseg_escnet.apis.inferencer import OpenVocabInferencer
    from mmseg_escnet.models.clip_weights import is_downloaded
    from mmseg_escnet.toyworld.scenes import example_scenes
    from mmseg_escnet.web import PageModel, build_page, serve

    limits = dict(max_pixels=args.max_pixels, max_words=args.max_words)
    segmenter = OpenVocabInferencer(*choose_model(args), args.device, **limits)
    if args.clip is not None:
        models = [PageModel(args.clip, segmenter, _CLIP_NOTE)]
    elif args.checkpoint is not None:
        models = [PageModel(str(args.config or args.checkpoint), segmenter)]
    else:
        models = [PageModel('Toy world', segmenter, _TOY_NOTE, example_scenes())]
        if is_downloaded(_CLIP, 'openai'):
            clip = OpenVocabInferencer.from_clip(_CLIP, args.device, **limits)
            models.append(PageModel(f'CLIP {_CLIP}', clip, _CLIP_NOTE))
        else:
            models[0] = models[0]._replace(note=f'{_TOY_NOTE} {_HOW_TO_GET_CLIP}')
    page = build_page(models)
    url = serve(page, host=args.host, port=args.port)
    if args.host not in _LOOPBACK:
        print(f'note: anyone who can reach {args.host} can use the page, without a password')
    print(f'The page is at {url} (Ctrl-C stops it)', flush=True)
    page.block_thread()


if __name__ == '__main__':
    run_tool(main)
