"""A folder of label maps: one PNG per image, and ``names.json``, which says what the ids mean.

Keys of ``names.json`` (others record how the label maps were made, and are not used here):

- ``names``: the class names in order.
- ``first_id``: the id of ``names[0]`` in the files: 1 if the label files of the data set use 0 for
  "no label" (``reduce_zero_label``), otherwise 0.
- ``ignore_index``: the id of pixels without a class.
- ``file``: the file of an image below the folder, ``{stem}.png`` or ``labels/{name}.png``:
  ``{name}`` is the path of the image below the folder of all images, ``{stem}`` the same without
  its suffix.
- ``background_from``: optional; classes from this index on are evaluated as one.
- ``dataset``: optional; the name of the data set.

The files have 8 bits if all ids fit, otherwise 16.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from .errors import ESCNetError, first_few
from .files import encode_label_map, read_label_map, write_file

NAMES_FILE = 'names.json'
STEM_FILE = '{stem}.png'
_AGAIN = 'run tools/test.py with --out or tools/infer.py again'
_SHOWN = 3


def image_name(img_path: str, image_dir: str | None = None) -> str:
    """Path of an image relative to ``image_dir``; its file name if it is not below that folder."""
    if image_dir is not None:
        relative = Path(os.path.relpath(img_path, image_dir))
        if '..' not in relative.parts:
            return relative.as_posix()
    return os.path.basename(img_path)


def label_file(template: str, name: str) -> str:
    """File of the label map of an image, relative to the folder.

    Args:
        template: See ``file`` above.
        name: The image, as given by :func:`image_name`.
    """
    values = dict(name=name, stem=os.path.splitext(name)[0])
    return re.sub(r'\{(name|stem)\}', lambda match: values[match[1]], template)


class LabelFiles:
    """Assigns a unique label file to every image.

    Args:
        template: See ``file`` above.
        image_dir: See :func:`image_name`.
    """

    def __init__(self, template: str, image_dir: str | None = None) -> None:
        self.template = template
        self.image_dir = image_dir
        self._images: dict[str, str] = {}

    def of(self, img_path: str) -> str:
        """The file of an image, relative to the folder.

        Raises:
            ESCNetError: If another image has this file.
        """
        file = label_file(self.template, image_name(img_path, self.image_dir))
        other = self._images.setdefault(file, img_path)
        if other != img_path:
            raise ESCNetError(
                f'The label maps of {other} and {img_path} would both be written to {file}: put '
                'all images below one folder (data_prefix.img_path), whose sub-folders are kept, '
                'or rename one of the two.'
            )
        return file


@dataclass(frozen=True)
class LabelNames:
    """What the ids in the files mean; the attributes are the keys of ``names.json`` above.

    Raises:
        ESCNetError: If the ids do not fit into 16 bits, or ``ignore_index`` is the id of a class.
    """

    names: Sequence[str]
    ignore_index: int
    first_id: int = 0
    file: str = STEM_FILE
    background_from: int | None = None
    dataset: str | None = None

    def __post_init__(self) -> None:
        is_class = self.first_id <= self.ignore_index <= self.last_id
        if is_class or max(self.last_id, self.ignore_index) > 65535 or self.ignore_index < 0:
            raise ESCNetError(
                f'Label maps of {len(self.names)} classes cannot be saved with '
                f'ignore_index={self.ignore_index}: their ids in the files are {self.first_id} to '
                f'{self.last_id}, so use 65535.'
            )

    @classmethod
    def of(cls, record: Mapping) -> LabelNames:
        """Create from the content of ``names.json``.

        Raises:
            TypeError: If a key is missing or has the wrong type.
        """
        if not isinstance(record, Mapping):
            raise TypeError(f'expected a dict, got {type(record).__name__}')
        names = cls(**{f.name: record[f.name] for f in fields(cls) if f.name in record})
        label_file(names.file, '')  # raises TypeError unless it is a string
        return names

    @property
    def last_id(self) -> int:
        """The id of the last class in the files."""
        return len(self.names) - 1 + self.first_id

    def encode(self, ids: np.ndarray, note: str | None = None) -> bytes:
        """Encode a label map as PNG.

        Args:
            ids: Class ids or ``ignore_index``, (height, width), of any integer type.
            note: A text for :func:`.files.read_note`.
        """
        in_file = np.where(ids == self.ignore_index, ids, ids + self.first_id)
        small = max(self.last_id, self.ignore_index) < 256
        return encode_label_map(in_file.astype(np.uint8 if small else np.uint16), note)


def encode_record(record: Mapping) -> bytes:
    """The content of ``names.json``, one key per line."""
    lines = (f' {json.dumps(key)}: {json.dumps(value)}' for key, value in record.items())
    return ('{\n' + ',\n'.join(lines) + '\n}\n').encode()


class LabelWriter:
    """Writes the label maps of a data set; ``names.json`` comes last, when they are complete.

    Args:
        folder: The folder.
        names: What the ids mean.
        image_dir: See :func:`image_name`.
    """

    def __init__(
        self, folder: str | os.PathLike, names: LabelNames, *, image_dir: str | None = None
    ) -> None:
        self.folder = Path(folder)
        self.names = names
        self._files = LabelFiles(names.file, image_dir)

    def begin(self) -> None:
        """Remove an earlier ``names.json``: the folder is incomplete from now on."""
        (self.folder / NAMES_FILE).unlink(missing_ok=True)

    def write(self, ids: np.ndarray, img_path: str) -> None:
        """Write the label map of an image.

        Args:
            ids: Class ids or ``ignore_index``, (height, width).
            img_path: The image.

        Raises:
            ESCNetError: If another image has the same file.
        """
        write_file(self.folder / self._files.of(img_path), self.names.encode(ids))

    def finish(self) -> None:
        """Write ``names.json``: all label maps are written."""
        write_file(self.folder / NAMES_FILE, encode_record(asdict(self.names)))


class LabelReader:
    """Reads a folder of label maps.

    Args:
        folder: As written by ``tools/test.py --out`` or ``tools/infer.py``.

    Attributes:
        names: What the ids mean.
        record: The content of ``names.json``.

    Raises:
        ESCNetError: If it is not such a folder, or incomplete.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ESCNetError(
                f'The folder of label maps {folder} does not exist: create it with `python '
                'tools/test.py CONFIG CHECKPOINT --out FOLDER`.'
            )
        path = self.folder / NAMES_FILE
        try:
            self.record = json.loads(path.read_text(encoding='utf-8'))
            self.names = LabelNames.of(self.record)
        except ESCNetError:
            raise
        except OSError as error:
            raise ESCNetError(
                f'{path} cannot be read ({error.strerror or error}). tools/test.py writes it after '
                f'the last label map: {_AGAIN}, and let it finish.'
            ) from error
        except (ValueError, TypeError) as error:
            raise ESCNetError(f'{path} is not a valid names file ({error}): {_AGAIN}.') from error

    def check_classes(self, classes: Sequence[str], where: str) -> None:
        """Compare the names with the classes of a data set.

        Raises:
            ESCNetError: If they differ in any way, including their order.
        """
        saved = list(self.names.names)
        if saved == list(classes):
            return
        if len(saved) != len(classes):
            difference = f'{len(saved)} classes, {where} {len(classes)}'
        else:
            index = next(i for i, name in enumerate(saved) if name != classes[i])
            difference = f'{saved[index]!r} as class {index}, {where} {classes[index]!r}'
        of = f' (data set {self.names.dataset})' if self.names.dataset else ''
        raise ESCNetError(
            f'The label maps in {self.folder}{of} have {difference}: evaluate them with the '
            'config and the classes they were made with.'
        )

    def check_files(self, names: Iterable[str]) -> None:
        """Compare the label maps with the images of a data set.

        Args:
            names: The images, as given by :func:`image_name`.

        Raises:
            ESCNetError: If there are missing or surplus files.
        """
        expected = {label_file(self.names.file, name) for name in names}
        root = self.folder / os.path.dirname(self.names.file)
        found = {path.relative_to(self.folder).as_posix() for path in root.rglob('*.png')}
        if missing := expected - found:
            raise ESCNetError(
                f'{len(missing)} of {len(expected)} label maps are missing in {self.folder} '
                f'({first_few(sorted(missing), _SHOWN)}): {_AGAIN}.'
            )
        if surplus := found - expected:
            raise ESCNetError(
                f'{self.folder} holds {len(surplus)} label maps of images that the data set does '
                f'not have ({first_few(sorted(surplus), _SHOWN)}): write label maps into an empty '
                'folder, or evaluate these with the config they were made with.'
            )

    def read(self, name: str) -> np.ndarray:
        """Read the label map of an image.

        Args:
            name: The image, as given by :func:`image_name`.

        Returns:
            Class ids or ``ignore_index``, (height, width), int64.

        Raises:
            ESCNetError: If the file is damaged or contains an id that is not a class.
        """
        path = self.folder / label_file(self.names.file, name)
        in_file = read_label_map(path).astype(np.int64)
        no_class = in_file == self.names.ignore_index
        first, last = self.names.first_id, self.names.last_id
        outside = in_file[~no_class & ((in_file < first) | (in_file > last))]
        if outside.size:
            raise ESCNetError(
                f'The label map {path} holds id {outside[0]}, but the classes in {NAMES_FILE} are '
                f'{first} to {last}: it does not belong to this folder, so {_AGAIN}.'
            )
        return np.where(no_class, in_file, in_file - first)
