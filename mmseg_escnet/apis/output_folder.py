"""Resumable output folders, which never mix results of different words or weights."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from ..errors import ESCNetError
from ..files import encode_png, encode_scores, read_note, sha256, write_file
from ..image_files import (
    COCO,
    LABELS,
    OVERLAYS,
    POLYGONS,
    RESULT_FOLDERS,
    SCORES,
    FoundImage,
    check_writable,
    numbered_folder,
    numbered_folders,
    printable,
)
from ..label_folder import NAMES_FILE, LabelNames, encode_record
from ..version import __version__
from .result import SegmentationResult

COCO_FILE = 'coco.json'
_SUFFIXES = dict.fromkeys(RESULT_FOLDERS, '.png') | {COCO: '.json', POLYGONS: '.geojson'}
_LONGEST_NAME = 255  # bytes, in the usual file systems


class OutputFolder:
    """Results of images, each in a file named after the whole image (``labels/sub/a.jpg.png``).

    Every file carries a note that identifies the words, the weights and the image it was made of,
    and is made again if the image changed. :meth:`choose` finds a folder without other results.

    Args:
        folder: Where ``labels`` and the other kinds are.
        record: The query and the model, for ``names.json``: see :mod:`.label_folder`.
        kinds: Which of ``RESULT_FOLDERS`` to write, besides label maps.
        plain: Write overlays in the size of the image, without names and legend.

    Attributes:
        replaces: Results of other words or weights, which :meth:`begin` removes.
    """

    def __init__(
        self, folder: Path, record: dict, *, kinds: Collection[str], plain: bool = False
    ) -> None:
        self.folder = folder
        self.replaces: list[Path] = []
        self.kinds = [kind for kind in RESULT_FOLDERS if kind == LABELS or kind in kinds]
        self._plain = plain
        self._collects = False
        self._run = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        # the whole name: a.jpg and a.png are two images
        self._record = record | dict(file=f'{LABELS}/{{name}}.png')
        self._names = LabelNames.of(self._record)

    @classmethod
    def choose(
        cls,
        folder: Path,
        record: dict,
        images: Collection[FoundImage],
        *,
        overwrite: bool = False,
        **options,
    ) -> OutputFolder:
        """The folder; if it holds other results, the same with a number behind its name.

        That is the folder, or one of ``folder2``, ``folder3``, ..., in which this run began;
        otherwise the first of them without results.

        Args:
            folder: As for the class.
            record: As for the class.
            images: The images whose results will be written.
            overwrite: Take the folder itself, and replace what it holds.
            options: Other arguments of the class.

        Raises:
            ESCNetError: If nothing can be written there, or files that were not made here would
                be replaced.
        """
        first = cls(folder, record, **options)
        check_writable(first.folder)
        found = first._other_files(images, every=overwrite)
        if overwrite or not found:
            first._check_replaceable(found)
            first.replaces = found
            return first
        beside = [cls(path, record, **options) for path in numbered_folders(folder)]
        for output in beside:
            if output._holds_own() and not output._other_files(images):
                return output
        numbers = (numbered_folder(folder, number) for number in itertools.count(2))
        path = next(path for path in numbers if not os.path.lexists(path))
        output = cls(path, record, **options)
        check_writable(output.folder)
        return output

    def _check_replaceable(self, files: Collection[Path]) -> None:
        """Files without a note, such as the label maps of a data set, are somebody else's."""
        foreign = [path for path in files if not _is_result(path)]
        if foreign:
            raise ESCNetError(
                f'{self.folder} holds {len(foreign)} files that are no results of infer (first '
                f'{printable(foreign[0])}), which --overwrite would remove: choose another folder.'
            )

    def _files(self) -> Iterator[Path]:
        for kind, suffix in _SUFFIXES.items():
            yield from (self.folder / kind).rglob(f'*{suffix}')

    def _holds_own(self) -> bool:
        return any((_read_note(path) or '').startswith(self._run) for path in self._files())

    def _other_files(self, images: Collection[FoundImage], *, every: bool = False) -> list[Path]:
        """Results of other words or weights, and their names: the first, or ``every`` one.

        Files of the images that have no note are damaged, and are written again.
        """
        names = self.folder / NAMES_FILE
        is_other = names.is_file() and names.read_bytes() != encode_record(self._record)
        others = itertools.chain([names] if is_other else [], self._other_results(images))
        return list(others if every else itertools.islice(others, 1))

    def _other_results(self, images: Collection[FoundImage]) -> Iterator[Path]:
        ours = {path for image in images for path in self._paths(image).values()}
        for path in self._files():
            note = _read_note(path)
            if not (note or '').startswith(self._run) and not (note is None and path in ours):
                yield path

    def note(self, image: FoundImage) -> str:
        """The note in the files of an image.

        Raises:
            ESCNetError: If the image cannot be read.
        """
        name = printable(image.path)
        if not image.path.is_file():
            raise ESCNetError(f'Image {name} is not a regular file: check the path.')
        longest = max((_SUFFIXES[kind] for kind in self.kinds), key=len)
        if len(os.fsencode(f'{image.path.name}{longest}')) > _LONGEST_NAME:
            raise ESCNetError(
                f'The name of image {name} is too long to append {longest}: make it shorter.'
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
        found = {kind: _read_note(paths[kind]) for kind in self.kinds}
        if None in found.values():
            return False  # without reading the image
        try:
            note = self.note(image)
        except ESCNetError:
            return False
        return found == {kind: self._note_of(kind, note) for kind in self.kinds}

    def begin(self) -> None:
        """Remove what is replaced, and write what the ids mean."""
        for path in self.replaces:
            path.unlink(missing_ok=True)
        self._collects = COCO in self.kinds or (self.folder / COCO_FILE).exists()
        (self.folder / COCO_FILE).unlink(missing_ok=True)  # incomplete until finish()
        write_file(self.folder / NAMES_FILE, encode_record(self._record))

    def write(self, image: FoundImage, result: SegmentationResult, note: str) -> None:
        """Write the files of an image, and remove outdated ones of kinds that are not written.

        Raises:
            ESCNetError: If a file cannot be written, or shapely is missing for polygons.
        """
        info = dict(info=dict(description=f'mmseg_escnet {__version__}', note=note))
        draw = result.plain_overlay if self._plain else result.overlay
        encode = {
            SCORES: lambda: encode_scores(result.scores, note),
            OVERLAYS: lambda: encode_png(draw(), self._note_of(OVERLAYS, note)),
            COCO: lambda: json.dumps(info | _named(result.to_coco(), image.name)).encode(),
            POLYGONS: lambda: json.dumps(info | result.to_polygons()).encode(),
            LABELS: lambda: self._names.encode(result.labels, note),
        }
        for kind, path in self._paths(image).items():
            if kind in self.kinds:
                write_file(path, encode[kind]())
            elif path.exists() and not (_read_note(path) or '').startswith(note):
                path.unlink()

    def finish(self, images: Collection[FoundImage]) -> None:
        """Collect the COCO annotations of all images in one file, if there are any."""
        if not self._collects:
            return
        merged = dict(info={}, images=[], categories=[], annotations=[])
        for image in images:
            path = self._paths(image)[COCO]
            if not path.is_file():  # the image failed
                continue
            found = json.loads(path.read_text(encoding='utf-8'))
            image_id = len(merged['images']) + 1
            merged['info'] = dict(description=found['info']['description'])
            merged['categories'] = found['categories']
            merged['images'].append(found['images'][0] | dict(id=image_id))
            for annotation in found['annotations']:
                number = dict(id=len(merged['annotations']) + 1, image_id=image_id)
                merged['annotations'].append(annotation | number)
        write_file(self.folder / COCO_FILE, json.dumps(merged).encode())

    def path(self, image: FoundImage) -> Path:
        """The file to look at: the overlay of an image, or its label map."""
        return self._paths(image)[OVERLAYS if OVERLAYS in self.kinds else LABELS]

    def remove(self, image: FoundImage) -> None:
        """Remove the files of an image, which are outdated."""
        for path in self._paths(image).values():
            if os.path.lexists(path):  # unlike unlink, accepts names that are too long
                path.unlink()

    def _note_of(self, kind: str, note: str) -> str:
        return f'{note}:plain' if kind == OVERLAYS and self._plain else note

    def _paths(self, image: FoundImage) -> dict[str, Path]:
        return {
            kind: self.folder / kind / f'{image.name}{suffix}' for kind, suffix in _SUFFIXES.items()
        }


def _read_note(path: Path) -> str | None:
    """The note in a result; None if the file is missing, damaged, or has none."""
    if path.suffix == '.png':
        return read_note(path)
    try:
        return json.loads(path.read_text(encoding='utf-8'))['info']['note']
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_result(path: Path) -> bool:
    """Whether this module wrote a file."""
    if path.name == NAMES_FILE:
        return b'"checkpoint_sha256"' in path.read_bytes()
    return _read_note(path) is not None


def _named(coco: dict, name: str) -> dict:
    """COCO annotations of one image, with its path below the common folder."""
    return coco | dict(images=[coco['images'][0] | dict(file_name=name)])
