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

    Every file carries a note of what was asked and of which image. So a file is known to be made
    of the same words, weights and image, or is made again.

    Args:
        folder: Where ``labels``, ``overlays`` and ``scores`` are.
        record: What was asked and of which model, for ``names.json``: see :mod:`.label_folder`.
        overlays: Whether overlays are written.
        scores: Whether scores are written.
    """

    def __init__(self, folder: Path, record: dict, *, overlays: bool, scores: bool) -> None:
        self.folder = folder
        wanted = {SCORES: scores, OVERLAYS: overlays, LABELS: True}
        self._kinds = [kind for kind in RESULT_FOLDERS if wanted[kind]]
        self._asked = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        # the whole name: a.jpg and a.png are two images
        self.record = record | dict(file=f'{LABELS}/{{name}}.png')
        self._names = LabelNames.of(self.record)

    def refuse_others(self, images: Collection[FoundImage]) -> None:
        """Refuse a folder in which results of something else would stay behind.

        Args:
            images: The images whose results are written this time, over older ones if there are.

        Raises:
            ESCNetError: If there are other files that were not made of the same words and weights,
                or nothing can be written there.
        """
        self._check_folder()
        ours = {path for image in images for path in self._paths(image).values()}
        others = sorted(
            path
            for kind in RESULT_FOLDERS
            for path in (self.folder / kind).rglob('*.png')
            if path not in ours and not (read_note(path) or '').startswith(self._asked)
        )
        if others:
            raise ESCNetError(
                f'{self.folder} holds {len(others)} results of other words or weights (first '
                f'{printable(others[0])}), which {NAMES_FILE} would not describe: choose another '
                'folder, or remove them.'
            )

    def _check_folder(self) -> None:
        # before the model is loaded, which may take minutes
        parents = (self.folder, *self.folder.absolute().parents)
        nearest = next(path for path in parents if os.path.lexists(path))
        if not nearest.is_dir():
            raise ESCNetError(
                f'Results cannot be written to {self.folder}, because {nearest} is not a folder: '
                'choose another one.'
            )
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise ESCNetError(
                f'Results cannot be written to {self.folder}, because {nearest} is not writable: '
                'choose another folder, or change its permissions.'
            )

    def note(self, image: FoundImage) -> str:
        """What the files of an image carry.

        Raises:
            ESCNetError: If it cannot be read.
        """
        if not image.path.is_file():
            raise ESCNetError(
                f'Image {printable(image.path)} is not a regular file: check the path.'
            )
        if len(os.fsencode(f'{image.path.name}.png')) > _LONGEST_NAME:
            raise ESCNetError(
                f'The name of image {printable(image.path)} is too long to add .png to it: make it '
                'shorter.'
            )
        try:
            return f'{self._asked}:{sha256(image.path)}'
        except OSError as error:
            raise ESCNetError(
                f'Image {printable(image.path)} cannot be read ({error.strerror or error}): check '
                'its permissions.'
            ) from error

    def is_done(self, image: FoundImage) -> bool:
        """Whether all files of an image exist, made of the same words, weights and image."""
        paths = self._paths(image)
        notes = {read_note(paths[kind]) for kind in self._kinds}
        if len(notes) != 1 or None in notes:
            return False
        try:
            return notes == {self.note(image)}
        except ESCNetError:
            return False

    def begin(self) -> None:
        """Write what the ids mean."""
        write_file(self.folder / NAMES_FILE, encode_record(self.record))

    def write(self, image: FoundImage, result: SegmentationResult, note: str) -> None:
        """Write the files of an image, and remove outdated ones that are not written any more.

        Raises:
            ESCNetError: If one cannot be written.
        """
        encode = {
            SCORES: lambda: encode_scores(result.scores, note),
            OVERLAYS: lambda: encode_png(result.overlay(), note),
            LABELS: lambda: self._names.encode(result.labels, note),
        }
        paths = self._paths(image)
        for kind, path in paths.items():
            if kind not in self._kinds and path.exists() and read_note(path) != note:
                path.unlink()
        for kind in self._kinds:
            write_file(paths[kind], encode[kind]())

    def remove(self, image: FoundImage) -> None:
        """Remove the files of an image: they are of other words, or of what the image once was."""
        for path in self._paths(image).values():
            if os.path.lexists(path):  # not asked by unlink, which refuses names that are too long
                path.unlink()

    def _paths(self, image: FoundImage) -> dict[str, Path]:
        return {kind: self.folder / kind / f'{image.name}.png' for kind in RESULT_FOLDERS}
