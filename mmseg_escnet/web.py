"""A gradio page on which people segment pictures into their own words."""

import atexit
import contextlib
import functools
import html
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .apis.inferencer import OpenVocabInferencer
from .apis.query import Query
from .apis.result import SegmentationResult
from .cli import parse_background
from .colors import OPACITY, distinct_in_picture
from .errors import ESCNetError, first_few
from .visualization.overlay import paint
from .vocabulary import display_names

MAX_FILE_BYTES = 64 << 20
_LONGEST_SIDE = 1600  # of the picture in the browser
_WORDS = 'Separated by commas or line breaks, synonyms by bars: sofa | couch. Ctrl+Enter segments.'
_BACKGROUND = (
    'Optional: what is none of the words. Empty: nothing, every pixel gets the word that fits '
    'best. "other": common surroundings, such as sky, wall or road. Other words: these. A number '
    'between 0 and 1: pixels whose best score is lower.'
)
_CSS = f'img.mask:not(.active, .inactive) {{opacity: {OPACITY} !important}}'  # as in overlays
_CTRL_ENTER = """<script>
addEventListener('keydown', event => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey))
    document.getElementById('segment').click()
})
</script>"""
_SHOW_RESULT = """() => {
  const result = document.getElementById('result')  // below the input on a phone
  if (result.getBoundingClientRect().bottom > innerHeight)
    result.scrollIntoView({behavior: 'smooth'})
}"""


def segment(
    segmenter: OpenVocabInferencer, picture: Path | None, words: str, background: str = ''
) -> SegmentationResult:
    """Segment an image file into the words that were typed.

    Args:
        segmenter: The model.
        picture: Path of the file; None if no picture was chosen.
        words: As for ``mmseg-escnet infer --classes``.
        background: As for ``mmseg-escnet infer --background``; blank for none.

    Raises:
        ESCNetError: If the picture or the words cannot be used, or there is no picture.
    """
    background = parse_background(background.strip() or None)
    query = Query.create(words, background=background, max_words=segmenter.max_words)
    if picture is None:
        raise ESCNetError('There is no picture: upload one, or choose an example.')
    return segmenter(picture.read_bytes(), query)  # bytes: messages must not show server paths


def annotate(result: SegmentationResult, class_ids: Sequence[int]) -> dict:
    """What ``gr.AnnotatedImage`` shows.

    Returns:
        ``value``: the picture (h, w, 3), uint8, at most 1600 pixels on a side, with outlines of the
        classes, and for each of ``class_ids`` that is present, the largest first, a mask (h, w),
        bool, and a label with name and share. ``color_map``: label -> '#rrggbb'.
    """
    step = -(-max(result.labels.shape) // _LONGEST_SIDE)
    picture, labels = result.image[::step, ::step], result.labels[::step, ::step]
    areas = {result.classes.index(name): area for name, area in result.areas.items()}
    colors = distinct_in_picture(result.palette, areas)
    outlined = paint(picture, labels.astype(np.uint16), colors, opacity=0)
    names, total = display_names(result.classes), result.labels.size
    texts = {i: f'{names[i]} {area / total:.1%}' for i, area in areas.items()}
    return dict(
        value=(outlined, [(labels == i, texts[i]) for i in texts if i in class_ids]),
        color_map={texts[i]: '#{:02x}{:02x}{:02x}'.format(*colors[i]) for i in texts},
    )


def scores_at(result: SegmentationResult, x: int, y: int) -> dict[str, float]:
    """The probability of every class at one pixel: ``result.class_scores`` for that pixel."""
    words = result.score_maps.part(slice(y, y + 1), slice(None))[:, 0, x]
    if result.normaliser is not None:
        words = (words - result.normaliser[y, x]).exp()
    words, asked = words.clamp(max=1).tolist(), result.query.num_asked
    other = max(words[asked:], default=1 - float(result.scores[y, x]))  # if there is a background
    return dict(zip(display_names(result.classes), [*words[:asked], other], strict=False))


class PageModel(NamedTuple):
    """A model that the page offers.

    Attributes:
        name: What visitors choose it by.
        segmenter: The model.
        note: Markdown about it.
        examples: Pictures with words to choose from.
    """

    name: str
    segmenter: OpenVocabInferencer
    note: str = ''
    examples: Sequence[Sequence] = ()


@contextlib.contextmanager
def _without_proxy() -> Iterator[None]:
    """Gradio asks nobody but its own page, whether it is there, and no proxy can know that."""
    saved = {name: os.environ.get(name) for name in ('no_proxy', 'NO_PROXY')}
    os.environ.update(dict.fromkeys(saved, '*'))
    try:
        yield
    finally:
        for name, value in saved.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def build_page(models: Sequence[PageModel]) -> Any:
    """Build the page, a ``gr.Blocks``.

    Args:
        models: At least one; the first is chosen at the beginning.

    Raises:
        ESCNetError: If gradio is not installed.
    """
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    if 'GRADIO_TEMP_DIR' not in os.environ:  # gradio's own belongs to its first user on a machine
        folder = tempfile.mkdtemp(prefix='mmseg_escnet-web-')
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ['GRADIO_TEMP_DIR'] = folder
    try:
        with _without_proxy():
            import gradio as gr
    except ModuleNotFoundError as error:
        raise ESCNetError(
            f"The page needs gradio, and {error.name} is missing: pip install 'mmseg_escnet[web]'."
        ) from error

    def explain(function: Callable) -> Callable:
        """Show errors of the input as text."""

        @functools.wraps(function)  # gradio reads the annotations
        def call(*args):
            try:
                return function(*args)
            except ESCNetError as error:
                message = html.escape(str(error), quote=False)
                raise gr.Error(message, duration=None, print_exception=False) from error

        return call

    @explain
    def answer(picture: dict | None, words: str, background: str, name: str) -> tuple:
        path = picture and Path(picture['path']).resolve()
        # gradio itself only checks paths that are marked as files
        if path and not path.is_relative_to(Path(view.GRADIO_CACHE).resolve()):
            raise ESCNetError('This picture was not uploaded here: upload it first.')
        result = segment(by_name[name].segmenter, path, words, background)
        names, query = display_names(result.classes), result.query
        ids = [result.classes.index(name) for name in result.areas]
        absent = [name for i, name in enumerate(names[: query.num_asked]) if i not in ids]
        said = [f'Not found: {first_few(absent, 20)}'] if absent else []
        notes = '<br>'.join(html.escape(each) for each in [*said, *query.notes()])
        choices = gr.CheckboxGroup([(names[i], i) for i in ids], value=ids)
        return (path, result), gr.AnnotatedImage(**annotate(result, ids)), notes, choices, None

    def choose(answered: tuple | None, class_ids: list[int]) -> tuple | None:
        return answered and annotate(answered[1], class_ids)['value']

    @explain
    def read_scores(picture: dict | None, answered: tuple | None, event: gr.SelectData) -> dict:
        if not answered or not picture or Path(picture['path']).resolve() != answered[0]:
            raise ESCNetError('This picture has no scores yet: press Segment first.')
        return scores_at(answered[1], *event.index)

    by_name = {model.name: model for model in models}
    with gr.Blocks(title='ESC-Net', analytics_enabled=False, delete_cache=(600, 3600)) as page:
        state = gr.State()
        gr.Markdown('# Your picture, your words')
        chooser = gr.Radio(list(by_name), value=models[0].name, label='Model')
        chooser.visible = len(models) > 1
        note = gr.Markdown(models[0].note)
        with gr.Row():
            with gr.Column():
                picture = gr.Image(label='Picture', sources=['upload', 'clipboard'], format='png')
                words = gr.Textbox(label='Words', info=_WORDS, lines=3)
                background = gr.Textbox(label='Background', info=_BACKGROUND)
                button = gr.Button('Segment', variant='primary', elem_id='segment')
            with gr.Column():
                view = gr.AnnotatedImage(label='Result', elem_id='result')
                notes = gr.HTML()
                chosen = gr.CheckboxGroup(label='Show')
                scores = gr.Label(label='Scores where you click on the picture', num_top_classes=5)
        asked = [picture, words, background, chooser]
        found = [state, view, notes, chosen, scores]
        # our own reader gets the file as it was uploaded
        as_uploaded = dict(preprocess=False, concurrency_id='model', concurrency_limit=1)
        private = dict(api_visibility='private')  # not an endpoint for clients
        presses = [button.click, words.submit]
        answers = [gr.on(presses, answer, asked, found, api_name='segment', **as_uploaded)]
        chosen.input(choose, [state, chosen], view, **private)
        picture.select(read_scores, [picture, state], scores, **as_uploaded, **private)
        chooser.change(lambda name: by_name[name].note, chooser, note, **private)
        rows = [[*example, model.name] for model in models for example in model.examples]
        if rows:
            table = gr.Examples(rows, [picture, words, chooser], **private)
            example = table.load_input_event
            answers += [example.then(answer, asked, found, **as_uploaded, **private)]
        for answered in answers:  # gradio 6 itself ignores scroll_to_output
            answered.success(None, js=_SHOW_RESULT, **private)
    return page.queue(max_size=16)


def serve(page: Any, *, host: str = '127.0.0.1', port: int | None = None) -> str:
    """Serve the page in background threads and return its URL.

    The default port is the first free one from 7860 on.

    Raises:
        ESCNetError: If the address or the port is not available.
    """
    try:  # gradio itself would retry an unknown address for minutes
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        socket.create_server((host, port or 0), family=family).close()
        with _without_proxy():
            _, url, _ = page.launch(
                server_name=f'[{host}]' if ':' in host else host,
                server_port=port,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                css=_CSS,
                head=_CTRL_ENTER,
                run_history=False,
                max_file_size=MAX_FILE_BYTES,
                state_session_capacity=8,  # visitors whose last result is kept
            )
    except (OSError, OverflowError) as error:
        raise ESCNetError(
            f'The page cannot be served at {host}, port {port or "7860 to 7959"} ({error}): choose '
            'another --host or --port.'
        ) from error
    return url
