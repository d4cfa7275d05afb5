"""What is wrong with an inspected data set, in one sentence for each kind of problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .inspection import IGNORED, OUTSIDE, Inspection, join_ids

_NEARLY_ALL = 0.9  # share of the classes that must occur before one's absence means something


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, or that should be looked at.

    Attributes:
        sentence: What is wrong, and what to do.
        files: The files it was seen in, in the order of the data set.
        certain: Whether it is wrong whatever was intended.
    """

    sentence: str
    files: Sequence[str] = ()
    certain: bool = True


def find_problems(inspection: Inspection, *, allow_partial: bool = False) -> list[Problem]:
    """Judge what was found in the files of a data set.

    Args:
        inspection: What was found.
        allow_partial: Whether fewer images than were published are right.

    Returns:
        The problems, those that are certain first.
    """
    checks = (
        None if allow_partial else _check_count(inspection),
        _check_readable(inspection),
        _check_sizes(inspection),
        _check_range(inspection),
        _check_ignore_index(inspection),
        _check_width(inspection),
        _check_zero_label(inspection),
        *_check_labelled(inspection),
    )
    return sorted(filter(None, checks), key=lambda problem: not problem.certain)


def _check_count(inspection: Inspection) -> Problem | None:
    if inspection.expected in (None, inspection.total):
        return None
    return Problem(
        f'The number of images is {inspection.total}, but {inspection.expected} were published: '
        f'{_remedy(inspection, "unpack and convert the data set again")}, or pass '
        '--allow-partial.'
    )


def _check_readable(inspection: Inspection) -> Problem | None:
    if not inspection.unreadable:
        return None
    return Problem(
        f'{_share(inspection.unreadable, inspection)} images cannot be read with their label maps:',
        _texts(inspection.unreadable),
    )


def _check_sizes(inspection: Inspection) -> Problem | None:
    if not inspection.mismatched:
        return None
    turned = (
        f' ({inspection.turned} with height and width exchanged: an EXIF tag may have turned the '
        'image after the label was drawn)'
        if inspection.turned
        else ''
    )
    return Problem(
        f'{_share(inspection.mismatched, inspection)} label maps are not as large as their '
        f'images{turned}: make both the same size.',
        _texts(inspection.mismatched),
    )


def _check_range(inspection: Inspection) -> Problem | None:
    if not inspection.outside:
        return None
    labels = inspection.labels
    ids = np.flatnonzero((inspection.id_pixels > 0) & (labels.make_table() == OUTSIDE)).tolist()
    hints = []
    if labels.last + 1 in ids and not labels.reduce_zero_label and len(set(ids) - {255, 65535}) < 2:
        hints.append(
            f'{labels.last + 1} is one more than the last class, so if ids count from 1 and 0 is '
            'unlabelled, set reduce_zero_label=True'
        )
    hints += [
        f'{unlabelled} usually means unlabelled and is used here as a class, so set '
        f'ignore_index={unlabelled}'
        for unlabelled in (255, 65535)
        if unlabelled in ids
    ]
    if not hints:
        again = _remedy(inspection, 'run the converter of the data set again')
        hints = [f'check reduce_zero_label and ignore_index, or {again}']
    return Problem(
        f'{_share(inspection.outside, inspection)} label maps hold ids that no class has '
        f'({join_ids(ids)}), while the classes have {labels.first} to {labels.last} and '
        f'{labels.ignore_index} is ignored: {"; ".join(hints)}.',
        _texts(inspection.outside),
    )


def _check_ignore_index(inspection: Inspection) -> Problem | None:
    labels = inspection.labels
    if not labels.first <= labels.ignore_index <= labels.last:
        return None
    return Problem(
        f'ignore_index={labels.ignore_index} is the id of a class, which is never trained nor '
        f'scored (they have {labels.first} to {labels.last}): set ignore_index=65535 and use label '
        'maps of 16 bits.'
    )


def _check_width(inspection: Inspection) -> Problem | None:
    labels = inspection.labels
    if labels.last > 255 and set(inspection.bits) == {8}:
        return Problem(
            f'All label maps have 8 bits, which cannot hold the ids of the classes up to '
            f'{labels.last}, so ids may have wrapped around (300 became 44): convert them to 16 '
            'bits.'
        )
    if inspection.loading.casts_to_bytes and max(labels.last, labels.ignore_index) > 255:
        return Problem(
            'LoadAnnotations in the pipeline casts ids to 8 bits, so that '
            f'{max(labels.last, labels.ignore_index)} becomes '
            f'{max(labels.last, labels.ignore_index) % 256}: use LoadLabelMap instead.'
        )
    return None


def _check_zero_label(inspection: Inspection) -> Problem | None:
    """With ids 0 to N - 1, reduce_zero_label shifts every class by one: the last never occurs."""
    labels, occurs = inspection.labels, inspection.id_pixels > 0
    if not labels.reduce_zero_label or occurs[labels.last] or not inspection.bits:
        return None
    if occurs[0] and not occurs[labels.ignore_index]:
        return None  # unlabelled pixels have id 0, as they should
    sign = f'both 0 and {labels.ignore_index} occur' if occurs[0] else 'in no label map 0 occurs'
    others = occurs[1 : labels.last]
    return Problem(
        f'reduce_zero_label=True says that 0 is unlabelled and the classes have 1 to '
        f'{labels.last}, but {sign} and {labels.last} does not: if ids count from 0, set '
        'reduce_zero_label=False.',
        certain=len(others) > 0 and others.mean() >= _NEARLY_ALL,
    )


def _check_labelled(inspection: Inspection) -> list[Problem]:
    if not inspection.unlabelled:
        return []
    table = inspection.labels.make_table()
    if not inspection.id_pixels[table != IGNORED].any():
        ids = np.flatnonzero(inspection.id_pixels).tolist()
        again = _remedy(inspection, 'run the converter of the data set again')
        return [
            Problem(
                f'Every pixel is ignored (the label maps hold {join_ids(ids)} alone): check '
                f'reduce_zero_label and ignore_index, or {again}.'
            )
        ]
    return [
        Problem(
            f'In {_share(inspection.unlabelled, inspection)} label maps every pixel is ignored: '
            'nothing is learnt from them.',
            _texts(inspection.unlabelled),
            certain=False,
        )
    ]


def _remedy(inspection: Inspection, otherwise: str) -> str:
    return inspection.hint or otherwise


def _share(files: Sequence, inspection: Inspection) -> str:
    return f'{len(files)} of {len(inspection.samples)}'


def _texts(files: Sequence[tuple[int, str]]) -> list[str]:
    return [text for _, text in files]
