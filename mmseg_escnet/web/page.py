"""The page: what stands where, and which button calls what."""

from __future__ import annotations

import errno
import functools
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import ESCNetError
from ..vocabulary import cut
from .desk import Answer, Desk
from .form import BackgroundKind, Example
from .wire import picture_message

os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # read when gradio is imported
try:
    import gradio as gr
    from starlette.middleware import Middleware
except ModuleNotFoundError as error:
    raise ESCNetError(
        f"The page needs gradio, and {error.name} is not installed: pip install 'mmseg_escnet[web]'"
        ', or in a clone: make web.'
    ) from error

_FOLDER = Path(__file__).parent
_PORTS = range(7860, 7960)
_MAX_FILE_BYTES = 64 << 20
_WAITING, _VISITORS = 16, 8  # requests in the queue; people whose last result is kept
_KEPT_FILES = (600, 3600)  # every ten minutes files older than an hour are removed
_BACKGROUNDS = [
    ('nothing: every pixel is one of the words', 'none'),
    ('other words', 'words'),
    ('what scores low', 'score'),
]
_SHOWN_WORD = 80  # characters
_ONE_WORD = 'With a single word every pixel is that word: say what else there is.'
_FONTS = dict(
    font=['system-ui', 'Segoe UI', 'Roboto', 'DejaVu Sans', 'sans-serif'],
    font_mono=['ui-monospace', 'DejaVu Sans Mono', 'monospace'],
)
# Whatever a library wants to load from elsewhere: the browser asks nobody but this server.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)


def build_page(desk: Desk, *, note: str = '', examples: Sequence[Example] = ()) -> gr.Blocks:
    """Make the page.

    Args:
        desk: What answers.
        note: Markdown below the title: which model it is.
        examples: Pictures to begin with, of which the first is shown at once.
    """
    with gr.Blocks(
        title='ESC-Net', analytics_enabled=False, fill_width=True, delete_cache=_KEPT_FILES
    ) as page:
        image, answer = gr.State(), gr.State()
        gr.Markdown(f'# Your picture, your words\n{note}')
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                upload = gr.File(
                    label='Picture',
                    show_label=False,
                    type='binary',
                    height=110,
                    elem_id='upload',
                )
                words = gr.Textbox(
                    label='Words',
                    info='One on each line or between commas; synonyms between bars: sofa | couch',
                    lines=5,
                    max_lines=12,
                    elem_id='words',
                )
                background = gr.Radio(
                    _BACKGROUNDS, value='none', label='None of the words', elem_id='background'
                )
                others = gr.Textbox(
                    label='Other words',
                    placeholder='leave empty for common ones: sky, wall, road, tree, ...',
                    visible=False,
                    elem_id='others',
                )
                below = gr.Slider(
                    0.05, 1, 0.5, step=0.05, label='Scores below', visible=False, elem_id='below'
                )
                button = gr.Button('Segment', variant='primary', elem_id='segment')
                gr.Markdown('Or begin with one of these:', visible=bool(examples))
                gallery = gr.Gallery(
                    [_enlarge(example.image) for example in examples],
                    show_label=False,
                    columns=3,
                    height='auto',
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    visible=bool(examples),
                    elem_id='examples',
                )
            with gr.Column(scale=5, min_width=320):
                notice = _own_component('notice')
                with gr.Tabs():
                    with gr.Tab('Result'):
                        viewer = _own_component('viewer')
                        files = gr.File(
                            label='Label map, what its numbers mean, overlay',
                            file_count='multiple',
                            interactive=False,
                            visible=False,
                            elem_id='files',
                        )
                    with gr.Tab('Look inside'):
                        gr.Markdown(
                            'What the ESC blocks do for one of the words: the correlation before '
                            'and after each, the pseudo prompts, and what the SAM block changes.'
                        )
                        with gr.Row(equal_height=True):
                            word = gr.Dropdown([], label='Word', scale=4, elem_id='word')
                            look = gr.Button('Look inside', min_width=140, elem_id='look')
                        inside = gr.Image(
                            show_label=False,
                            format='png',
                            interactive=False,
                            buttons=['download', 'fullscreen'],
                            elem_id='inside',
                        )

        def told(function: Callable[..., dict]) -> Callable[..., dict]:
            """Values of components; of unusable input only the notice, which says what it is."""

            @functools.wraps(function)  # gradio looks for events among the arguments
            def call(*args) -> dict:
                try:
                    return {notice: _notice('')} | function(*args)
                except ESCNetError as error:
                    return {notice: _notice(str(error), 'error')}

            return call

        @told
        def read(content: bytes) -> dict:
            pixels = desk.read(content)
            shown = {image: pixels, viewer: picture_message(pixels)}
            nothing = {answer: None, word: gr.Dropdown([], value=None), inside: None}
            return shown | nothing | {files: gr.File(None, visible=False)}

        @told
        def segment(*asked) -> dict:
            found = desk.segment(*asked)
            choices = [(cut(name, _SHOWN_WORD), name) for name in found.words]
            return {
                notice: _notice(_ONE_WORD if len(found.result.classes) == 1 else ''),
                answer: found,
                viewer: found.message(),
                word: gr.Dropdown(choices, value=found.words[0]),
                files: gr.File(found.save(), visible=True),
                inside: None,
            }

        def begin(number: int) -> dict:
            example = examples[number]
            asked = {image: example.image, words: example.words, background: 'none'}
            return asked | segment(example.image, example.words)

        def choose(event: gr.SelectData) -> dict:
            return begin(event.index)

        @told
        def class_scores(answer: Answer | None, event: gr.EventData) -> dict:
            return {viewer: desk.class_scores(answer, event.class_id)}

        @told
        def look_inside(answer: Answer | None, word: str | None) -> dict:
            return {inside: desk.look_inside(answer, word)}

        asked = [image, words, background, others, below]
        found = [notice, answer, viewer, word, files, inside]
        private = dict(api_visibility='private')
        one_at_a_time = dict(concurrency_id='model', concurrency_limit=1, **private)
        gr.on([button.click, words.submit], segment, asked, found, **one_at_a_time)
        # emptied at once, so that the next picture can be dropped
        upload.upload(read, upload, [image, *found], **one_at_a_time).then(
            lambda: None, None, upload, **private
        )
        background.change(_details, background, [others, below], **private)
        viewer.select(class_scores, answer, [notice, viewer], **one_at_a_time)
        look.click(look_inside, [answer, word], [notice, inside], **one_at_a_time)
        begun = [image, words, background, *found]
        gallery.select(choose, None, begun, **one_at_a_time)
        if examples:
            page.load(functools.partial(begin, 0), None, begun, **one_at_a_time)
    return page.queue(max_size=_WAITING, default_concurrency_limit=1)


def launch_page(page: gr.Blocks, *, host: str, port: int | None) -> str:
    """Serve the page from other threads.

    Args:
        page: The page.
        host: Address to bind to.
        port: None for the first free one from 7860 to 7959.

    Returns:
        Its URL.

    Raises:
        ESCNetError: If address or port cannot be had.
    """
    _, url, _ = page.launch(
        server_name=host,
        server_port=_free_port(host, port),
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        num_workers=0,
        max_file_size=_MAX_FILE_BYTES,
        state_session_capacity=_VISITORS,
        app_kwargs=dict(middleware=[Middleware(_OwnServerOnly)]),
        theme=gr.themes.Default(primary_hue='teal', **_FONTS),
        css_paths=_FOLDER / 'page.css',
    )
    return url


def _free_port(host: str, port: int | None) -> int:
    # gradio would look at its own address only, and try a hundred ports of one that is not there
    for candidate in _PORTS if port is None else [port]:
        try:
            family = socket.AF_INET6 if ':' in host else socket.AF_INET
            with socket.create_server((host, candidate), family=family):
                return candidate
        except (OSError, OverflowError) as error:
            why = error
            if getattr(error, 'errno', None) != errno.EADDRINUSE:
                break
    where = f'port {port}' if port is not None else f'a port from {_PORTS[0]} to {_PORTS[-1]}'
    raise ESCNetError(
        f'The page cannot be served at {host}, {where} ({why}): give another --host or --port.'
    ) from why


class _OwnServerOnly:
    """Sends the content security policy with every answer."""

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        async def send_with_policy(message: dict) -> None:
            if message['type'] == 'http.response.start':
                header = (b'content-security-policy', _POLICY.encode())
                message = message | dict(headers=[*message.get('headers', ()), header])
            await send(message)

        await self.app(scope, receive, send_with_policy)


def _own_component(name: str) -> gr.HTML:
    """A component of ours. Its template has no values in it: what comes from people or files is
    written into the page as text, by the component's own script.
    """
    return gr.HTML(
        html_template=(_FOLDER / f'{name}.html').read_text(encoding='utf-8'),
        js_on_load=(_FOLDER / f'{name}.js').read_text(encoding='utf-8'),
        apply_default_css=False,
        elem_id=name,
    )


def _notice(text: str, level: str = 'note') -> dict[str, str]:
    return dict(text=text, level=level)


def _details(kind: BackgroundKind) -> tuple:
    return gr.Textbox(visible=kind == 'words'), gr.Slider(visible=kind == 'score')


def _enlarge(image: np.ndarray, factor: int = 3) -> np.ndarray:
    return image.repeat(factor, axis=0).repeat(factor, axis=1)
