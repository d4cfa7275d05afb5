"""Predicted label maps as files: 16-bit PNG in the folders of the images, and a file of names.

``names.json`` says what the numbers mean: ``names`` in order, ``first_id`` (the number that
``names[0]`` has in the files), ``ignore_index`` (the number of "no class"), ``background_from`` of
the metric, and the name of the data set. It is written last: without it a folder is incomplete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..errors import ESCNetError
from ..files import decode_label_map, encode_label_map, write_file

NAMES_FILE = 'names.json'
_LARGEST_ID = 65535
_SHOWN = 3


def prediction_name(img_path: str, image_dir: str | None = None) -> str:
    """Name of an image's predicted label map, relative to the folder of predictions.

    Args:
        img_path: Path of the image.
        image_dir: Folder of all images, whose sub-folders are kept; an image outside of it, and
            every image without it, goes by its file name alone.
    """
    name = Path(os.path.basename(img_path))
    if image_dir is not None:
        relative = Path(os.path.relpath(img_path, image_dir))
        if '..' not in relative.parts:
            name = relative
    return name.with_suffix('.png').as_posix()


def check_prediction_names(img_paths: Iterable[str], image_dir: str | None = None) -> None:
    """Find two images whose predictions would be one file, before anything is predicted.

    Raises:
        ESCNetError: If there are two.
    """
    taken: dict[str, str] = {}
    for img_path in img_paths:
        _take(taken, prediction_name(img_path, image_dir), img_path)


def _take(taken: dict[str, str], name: str, img_path: str) -> None:
    other = taken.setdefault(name, img_path)
    if other != img_path:
        raise ESCNetError(
            f'The predictions for {other} and {img_path} would both be written to {name}: put all '
            'images below one folder (data_prefix.img_path), whose sub-folders are kept, or rename '
            'one of the two.'
        )


@dataclass(frozen=True)
class PredictionNames:
    """What the numbers in the files mean.

    Attributes:
        names: Class names in order.
        ignore_index: The number of pixels without a class.
        first_id: The number of ``names[0]``: 1 where the label files of the data set have 0 for
            "no label" (``reduce_zero_label``), otherwise 0.
        background_from: Classes from this index on are evaluated as one, None for no such thing.
        dataset: Name of the data set, if known.
    """

    names: Sequence[str]
    ignore_index: int
    first_id: int = 0
    background_from: int | None = None
    dataset: str | None = None

    def __post_init__(self) -> None:
        last = len(self.names) - 1 + self.first_id
        is_class = self.first_id <= self.ignore_index <= last
        if is_class or max(last, self.ignore_index) > _LARGEST_ID or self.ignore_index < 0:
            raise ESCNetError(
                f'Predictions of {len(self.names)} classes cannot be saved with '
                f'ignore_index={self.ignore_index}: their ids in the files are {self.first_id} to '
                f'{last}, so use 65535.'
            )


class PredictionWriter:
    """Writes the predictions for one data set into a folder.

    Args:
        folder: Where to.
        names: What the ids mean.
        image_dir: See :func:`prediction_name`.
    """

    def __init__(
        self, folder: str | os.PathLike, names: PredictionNames, *, image_dir: str | None = None
    ) -> None:
        self.folder = Path(folder)
        self.names = names
        self.image_dir = image_dir
        self._taken: dict[str, str] = {}

    def begin(self) -> None:
        """Take away the names of earlier predictions: from now on the folder is incomplete."""
        (self.folder / NAMES_FILE).unlink(missing_ok=True)

    def write(self, ids: np.ndarray, img_path: str) -> None:
        """Write one prediction.

        Args:
            ids: Class ids (height, width), or ``ignore_index``.
            img_path: The image it is for.

        Raises:
            ESCNetError: If the file is another image's.
        """
        name = prediction_name(img_path, self.image_dir)
        _take(self._taken, name, img_path)
        in_file = np.where(
            ids == self.names.ignore_index, self.names.ignore_index, ids + self.names.first_id
        )
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, encode_label_map(in_file.astype(np.uint16)))

    def finish(self) -> None:
        """Write the names: all predictions are there."""
        content = json.dumps(asdict(self.names), indent=1, ensure_ascii=False)
        write_file(self.folder / NAMES_FILE, content.encode())


class PredictionReader:
    """Reads the predictions in a folder.

    Args:
        folder: Where ``PredictionWriter`` wrote them.

    Raises:
        ESCNetError: If it is no such folder, or incomplete.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ESCNetError(
                f'The folder of predictions {folder} does not exist: make it with '
                '`mmseg-escnet test CONFIG CHECKPOINT --out FOLDER`.'
            )
        path = self.folder / NAMES_FILE
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
            self.names = PredictionNames(**content)
        except OSError as error:
            raise ESCNetError(
                f'{path} cannot be read ({error.strerror or error}): it is written after the last '
                'prediction, so run tools/test.py with --out again, to its end.'
            ) from error
        except (ValueError, TypeError) as error:
            if isinstance(error, ESCNetError):
                raise
            raise ESCNetError(
                f'{path} is not a file of names ({error}): run tools/test.py with --out again.'
            ) from error

    def check_classes(self, classes: Sequence[str], where: str) -> None:
        """Compare the names with the classes of the data set they are to be compared with.

        Raises:
            ESCNetError: If they differ, in number or order too.
        """
        saved = list(self.names.names)
        if saved == list(classes):
            return
        if len(saved) != len(classes):
            difference = f'{len(saved)} classes, {where} {len(classes)}'
        else:
            index = next(
                i for i, pair in enumerate(zip(saved, classes, strict=True)) if len({*pair}) > 1
            )
            difference = f'{saved[index]!r} as class {index}, {where} {classes[index]!r}'
        raise ESCNetError(
            f'The predictions in {self.folder} (data set {self.names.dataset}) have {difference}: '
            'evaluate them with the config they were made with.'
        )

    def check_files(self, wanted: Iterable[str]) -> None:
        """Compare the files that are there with those that should be.

        Args:
            wanted: Names as :func:`prediction_name` gives them.

        Raises:
            ESCNetError: If one is missing, or one too many is there.
        """
        wanted = set(wanted)
        there = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob('*.png')}
        if missing := wanted - there:
            raise ESCNetError(
                f'{len(missing)} of {len(wanted)} predictions are missing in {self.folder} '
                f'({_first(missing)}): run tools/test.py with --out again.'
            )
        if surplus := there - wanted:
            raise ESCNetError(
                f'{self.folder} holds {len(surplus)} predictions for images that the data set does '
                f'not have ({_first(surplus)}): write predictions into an empty folder, or '
                'evaluate these with the config they were made with.'
            )

    def read(self, name: str) -> np.ndarray:
        """Read one prediction.

        Args:
            name: As :func:`prediction_name` gives it.

        Returns:
            Class ids or ``ignore_index``, (height, width), int64.

        Raises:
            ESCNetError: If the file is damaged or holds an id that is no class.
        """
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ESCNetError(
                f'The prediction {path} cannot be read ({error.strerror or error}): check its '
                'permissions, or run tools/test.py with --out again.'
            ) from error
        in_file = decode_label_map(content, str(path)).astype(np.int64)
        no_class = in_file == self.names.ignore_index
        ids = np.where(no_class, in_file, in_file - self.names.first_id)
        outside = in_file[~no_class & ((ids < 0) | (ids >= len(self.names.names)))]
        if outside.size:
            raise ESCNetError(
                f'The prediction {path} holds id {outside[0]}, but {NAMES_FILE} names '
                f'{self.names.first_id} to {len(self.names.names) - 1 + self.names.first_id}: it '
                'was made by something else, so run tools/test.py with --out again.'
            )
        return ids


def _first(names: set[str]) -> str:
    shown = ', '.join(sorted(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f'{shown}, ...'
