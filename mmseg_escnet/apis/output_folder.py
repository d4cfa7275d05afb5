"""A resumable output folder that refuses to mix results of different words or weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path

from ..errors import ESCNetError
from ..files import encode_png, encode_scores, read_note, sha256, write_file
from ..image_files import LABELS, OVERLAYS, RESULT_FOLDERS, SCORES, FoundImage, printable
from ..label_folder import NAMES_FILE, LabelNames, encode_record
from .result import SegmentationResult

_LONGEST_NAME = 255  # bytes, in the usual file systems


class OutputFolder:
    """Results of images, each a PNG under the image's whole name (``labels/sub/a.jpg.png``).

    Every file carries a note that identifies the words, the weights and the image it was made of,
    and is made again if any of them changed.

    Args:
        folder: Where ``labels``, ``overlays`` and ``scores`` are.
        record: The query and the model, for ``names.json``: see :mod:`.label_folder`.
        overlays: Whether to write overlays.
        scores: Whether to write scores.
    """

    def __init__(self, folder: Path, record: dict, *, overlays: bool, scores: bool) -> None:
        self.folder = folder
        wanted = {SCORES: scores, OVERLAYS: overlays, LABELS: True}
        self._kinds = [kind for kind in RESULT_FOLDERS if wanted[kind]]
        self._run = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        # the whole name: a.jpg and a.png are two images
        self._record = record | dict(file=f'{LABELS}/{{name}}.png')
        self._names = LabelNames.of(self._record)

    def check(self, images: Collection[FoundImage]) -> None:
        """Refuse a folder that cannot be written, or that holds other results.

        Args:
            images: The images whose results will be written, replacing older ones.

        Raises:
            ESCNetError: If results of other images were made with other words or weights, or
                nothing can be written there.
        """
        parents = (self.folder, *self.folder.absolute().parents)
        nearest = next(path for path in parents if os.path.lexists(path))
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            why = 'writable' if nearest.is_dir() else 'a folder'
            raise ESCNetError(
                f'Results cannot be written to {self.folder}, because {nearest} is not {why}: '
                'choose another folder, or change its permissions.'
            )
        ours = {path for image in images for path in self._paths(image).values()}
        others = sorted(
            path
            for kind in RESULT_FOLDERS
            for path in (self.folder / kind).rglob('*.png')
            if path not in ours and not (read_note(path) or '').startswith(self._run)
        )
        if others:
            raise ESCNetError(
                f'{self.folder} holds {len(others)} results of other words or weights (first '
                f'{printable(others[0])}), which {NAMES_FILE} would not describe: choose another '
                'folder, or remove them.'
            )

    def note(self, image: FoundImage) -> str:
        """The note in the files of an image.

        Raises:
            ESCNetError: If the image cannot be read.
        """
        name = printable(image.path)
        if not image.path.is_file():
            raise ESCNetError(f'Image {name} is not a regular file: check the path.')
        if len(os.fsencode(f'{image.path.name}.png')) > _LONGEST_NAME:
            raise ESCNetError(
                f'The name of image {name} is too long to append .png: make it shorter.'
            )
        try:
            return f'{self._run}:{sha256(image.path)}'
        except OSError as error:
            raise ESCNetError(
                f'Image {name} cannot be read ({error.strerror or error}): check its permissions.'
            ) from error

    def is_done(self, image: FoundImage) -> bool:
        """Whether all files of an image exist, made of the same words, weights and image."""
        paths = self._paths(image)
        notes = {read_note(paths[kind]) for kind in self._kinds}
        if len(notes) != 1 or None in notes:
            return False  # without reading the image
        try:
            return notes == {self.note(image)}
        except ESCNetError:
            return False

    def begin(self) -> None:
        """Write what the ids mean."""
        write_file(self.folder / NAMES_FILE, encode_record(self._record))

    def write(self, image: FoundImage, result: SegmentationResult, note: str) -> None:
        """Write the files of an image, and remove outdated ones of kinds that are not written.

        Raises:
            ESCNetError: If a file cannot be written.
        """
        encode = {
            SCORES: lambda: encode_scores(result.scores, note),
            OVERLAYS: lambda: encode_png(result.overlay(), note),
            LABELS: lambda: self._names.encode(result.labels, note),
        }
        for kind, path in self._paths(image).items():
            if kind in self._kinds:
                write_file(path, encode[kind]())
            elif path.exists() and read_note(path) != note:
                path.unlink()

    def remove(self, image: FoundImage) -> None:
        """Remove the files of an image, which are outdated."""
        for path in self._paths(image).values():
            if os.path.lexists(path):  # unlike unlink, accepts names that are too long
                path.unlink()

    def _paths(self, image: FoundImage) -> dict[str, Path]:
        return {kind: self.folder / kind / f'{image.name}.png' for kind in RESULT_FOLDERS}
