"""What the page's buttons do, without the page."""

from __future__ import annotations

import io
import tempfile
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..apis.images import MAX_PIXELS, ImageReader
from ..apis.inferencer import OpenVocabInferencer
from ..apis.pipeline import build_pipeline
from ..apis.query import Query
from ..apis.result import SegmentationResult
from ..errors import ESCNetError
from ..visualization.colors import tell_apart
from .form import BackgroundKind, choose_background, split_words
from .wire import result_message, scores_message

_FIGURE_DPI = 110


def _temporary_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix='escnet-web-')


@dataclass(frozen=True, eq=False)
class Answer:
    """What one visitor asked last, and what was found.

    Attributes:
        result: What was found.
        key: Unlike that of any other answer.
        folder: Where its files are; it goes when the answer goes.
    """

    result: SegmentationResult
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    folder: tempfile.TemporaryDirectory = field(default_factory=_temporary_folder)

    @property
    def words(self) -> tuple[str, ...]:
        """The classes that were asked for, without the background."""
        query = self.result.query
        return query.names[: query.num_asked]

    def message(self) -> dict:
        """The result for the viewer."""
        return result_message(self.result, self.key)

    def save(self) -> list[str]:
        """Write label map, names and overlay; returns their paths."""
        folder = Path(self.folder.name)
        paths = [folder / name for name in ('labels.png', 'labels.json', 'overlay.png')]
        self.result.save(paths[0], overlay=paths[2])
        return [str(path) for path in paths]


class Desk:
    """Answers what the page asks.

    Args:
        segmenter: The model.
        max_pixels: Larger pictures are refused before they are decoded.
        max_words: More words at a time are refused.
    """

    def __init__(
        self,
        segmenter: OpenVocabInferencer,
        *,
        max_pixels: int = MAX_PIXELS,
        max_words: int = 1000,
    ) -> None:
        self.segmenter = segmenter
        self.max_words = max_words
        self._reader = ImageReader(build_pipeline(segmenter.cfg)[0], max_pixels=max_pixels)

    def read(self, content: bytes) -> np.ndarray:
        """Decode an uploaded file; returns (H, W, 3) uint8 in RGB.

        Raises:
            ESCNetError: If it is damaged, too large or no picture.
        """
        return np.ascontiguousarray(self._reader.read(content, 'The picture')[..., ::-1])

    def segment(
        self,
        image: np.ndarray | None,
        words: str,
        background: BackgroundKind = 'none',
        background_words: str = '',
        background_below: float = 0.5,
    ) -> Answer:
        """Segment a picture into the words that were typed.

        Raises:
            ESCNetError: If there is no picture, or the words are not usable.
        """
        query = Query.create(
            split_words(words),
            background=choose_background(background, background_words, background_below),
            max_words=self.max_words,
        )
        if image is None:
            raise ESCNetError('There is no picture: drop one, or choose an example.')
        return Answer(_tell_apart(self.segmenter(image, query)))

    def class_scores(self, answer: Answer | None, class_id: object) -> dict:
        """The score map of one class for the viewer.

        Raises:
            ESCNetError: If there is no such answer any more, or no such class.
        """
        answer = _there(answer)
        if type(class_id) is not int or not 0 <= class_id < len(answer.result.classes):
            raise ESCNetError('There is no such class in this result: segment the picture again.')
        return scores_message(answer.result, answer.key, class_id)

    def look_inside(self, answer: Answer | None, word: str | None) -> Image.Image:
        """Draw what the ESC blocks do for one word.

        Raises:
            ESCNetError: If there is no such answer any more, or no word was chosen.
        """
        result = _there(answer).result
        if word is None:
            raise ESCNetError('There is no word to look at: choose one of the list.')
        figure = self.segmenter.look_inside(result.image, result.query, word).figure()
        buffer = io.BytesIO()
        figure.savefig(buffer, format='png', dpi=_FIGURE_DPI, bbox_inches='tight')
        return Image.open(buffer)


def _tell_apart(result: SegmentationResult) -> SegmentationResult:
    """The same with colours that can be told apart, in the files as on the page."""
    query = result.query
    ids = [query.names.index(name) for name in result.areas]
    changed = tell_apart(query.palette, [i for i in ids if i < query.num_asked])
    palette = tuple(changed.get(i, color) for i, color in enumerate(query.vocabulary.palette))
    vocabulary = replace(query.vocabulary, palette=palette)
    return replace(result, query=replace(query, vocabulary=vocabulary))


def _there(answer: Answer | None) -> Answer:
    if answer is None:
        raise ESCNetError('There is no result yet: choose a picture, type words and segment it.')
    return answer
