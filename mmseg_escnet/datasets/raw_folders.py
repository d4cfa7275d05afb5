"""Find and check the folders, image lists and files of published data sets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import ESCNetError, first_few
from .conversion import Job, check_count
from .label_sets import LabelSet

_STEM = re.compile(r'[\w-]+')  # no folders, no second column


def find_folder(raw: Path, *, inside: Sequence[str], what: str, remedy: str) -> Path:
    """Find a published folder at RAW or below it.

    Args:
        raw: RAW as given.
        inside: Contents of the folder, at least one of which must exist.
        what: Its published path, such as ``'VOCdevkit/VOC2012'``.
        remedy: How to get it, completing '..., which comes '.

    Raises:
        ESCNetError: If it does not exist.
    """
    parts = Path(what).parts
    for base in (raw, *(raw.joinpath(*parts[i:]) for i in range(len(parts)))):
        if any((base / name).exists() for name in inside):
            return base
    state = 'has no ' + ' or '.join(inside) if raw.is_dir() else 'does not exist'
    raise ESCNetError(f'The folder {raw} {state}: give the path of {what}, which comes {remedy}.')


def read_stems(path: Path, remedy: str) -> list[str]:
    """Read a list of images, one name without suffix per line.

    Raises:
        ESCNetError: If it is missing, or contains anything else.
    """
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, 'strerror', None) or error
        raise ESCNetError(f'The list of images {path} cannot be read ({why}): {remedy}.') from error
    stems = [line.strip() for line in lines if line.strip()]
    for stem in stems:
        if not _STEM.fullmatch(stem):
            raise ESCNetError(
                f'The list of images {path} contains {stem!r}, not a name of an image: {remedy}.'
            )
    return list(dict.fromkeys(stems))


def devkit_jobs(
    raw: Path,
    *,
    image_list: str,
    label_folder: Path,
    label_suffix: str,
    expected: int,
    remedy: str,
    label_remedy: str,
    out: Path,
    sets: Sequence[LabelSet],
    allow_partial: bool,
) -> list[Job]:
    """Check the raw files of one split of a PASCAL VOC folder and list the jobs.

    Args:
        raw: The folder, with ``JPEGImages``.
        image_list: The list of the split, below ``raw``.
        label_folder: Folder of the raw label maps.
        label_suffix: Suffix of their names.
        expected: The published number of images.
        remedy: How to get the list and the images.
        label_remedy: How to get the label maps.
        out: OUT.
        sets: The label sets to be written.
        allow_partial: Skip images that are missing.

    Raises:
        ESCNetError: If something is missing.
    """
    stems = read_stems(raw / image_list, remedy)
    labels, images = _stems_in(label_folder, label_suffix), _stems_in(raw / 'JPEGImages', '.jpg')
    if not allow_partial:
        check_count(
            what=f'images listed in {image_list}',
            folder=raw,
            found=len(stems),
            expected=expected,
            remedy=remedy,
        )
        _check_listed(stems, labels, 'label maps', label_folder, label_suffix, label_remedy)
        _check_listed(stems, images, 'images', raw / 'JPEGImages', '.jpg', remedy)
    chosen = [stem for stem in stems if stem in labels and stem in images]
    left_out = len(stems) - len(chosen)
    print(
        f'{image_list}: {len(chosen)} of {expected} label maps with their images'
        + (f', {left_out} listed images left out' if left_out else '')
    )
    if not chosen:
        raise ESCNetError(
            f'No image in {raw / "JPEGImages"} is listed in {image_list} and has a label map in '
            f'{label_folder}: {label_remedy}.'
        )
    return [
        Job(
            raw_label=label_folder / f'{stem}{label_suffix}',
            raw_image=raw / 'JPEGImages' / f'{stem}.jpg',
            image=out / 'JPEGImages' / f'{stem}.jpg',
            labels=tuple(out / label_set.folder / f'{stem}.png' for label_set in sets),
        )
        for stem in chosen
    ]


def _check_listed(
    stems: Sequence[str], found: set[str], what: str, folder: Path, suffix: str, remedy: str
) -> None:
    missing = [stem for stem in stems if stem not in found]
    if missing:
        check_count(
            what=what,
            folder=folder,
            found=len(stems) - len(missing),
            expected=len(stems),
            remedy=f'{remedy} (missing: {first_few((f"{stem}{suffix}" for stem in missing), 3)})',
        )


def _stems_in(folder: Path, suffix: str) -> set[str]:
    """Names without suffix of the files in a folder."""
    return {path.name.removesuffix(suffix) for path in folder.glob(f'*{suffix}')}
