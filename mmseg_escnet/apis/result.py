"""The result of segmenting an image, and its export to other formats.

Shapes: H x W pixels of the image, N classes.
"""

import operator
import os
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from ..errors import ESCNetError, first_few
from ..files import check_suffix, encode_label_map, encode_png, encode_scores, write_file
from ..label_folder import encode_record
from ..models.segmentors.scores import Scores
from ..visualization.legend import format_share
from ..visualization.overlay import draw_overlay, paint
from .polygons import trace_regions
from .query import Query


@dataclass(frozen=True, eq=False, repr=False)
class SegmentationResult:
    """The result of segmenting an image.

    Attributes:
        labels: (H, W), uint8 for up to 255 classes and otherwise uint16: class i is
            ``classes[i]``; :attr:`no_class` (255 or 65535) where no score reached the threshold.
        scores: (H, W), float32: the probability of the best word of every pixel, whether or not it
            reached a threshold.
        query: The classes.
        image: (H, W, 3) uint8, RGB: the image as it was segmented, upright.
        source: Path of the image; None if it was not read from a path.
        score_maps: Scores of the M words; None if not kept.
        normaliser: See :class:`.scores.BestClasses`; None where it is not needed.
    """

    labels: np.ndarray
    scores: np.ndarray
    query: Query
    image: np.ndarray
    source: str | None = None
    score_maps: Scores | None = None
    normaliser: Tensor | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The N class names in the given order; a background is last."""
        return self.query.names

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """N colours (R, G, B)."""
        return self.query.palette

    @property
    def no_class(self) -> int:
        """Id of the pixels whose score is below the threshold: 255, or 65535 in uint16."""
        return self.query.no_class

    @property
    def areas(self) -> dict[str, int]:
        """Number of pixels of every class present, the largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts[: len(self.classes)], kind='stable')
        return {self.classes[i]: int(counts[i]) for i in order if counts[i]}

    def summary(self) -> str:
        """The largest classes with their shares of the pixels, in words."""
        total = self.labels.size
        shares = [f'{name} {format_share(area / total)}' for name, area in self.areas.items()]
        return first_few(shares) or 'nothing'

    def class_scores(self, name: str | int) -> np.ndarray:
        """The probability of one class at every pixel.

        For a background of words it is that of the best of them, for a background that is a low
        score 1 minus that of the best class.

        Args:
            name: A class name, one of its synonyms, or its id.

        Returns:
            (H, W), float32. Unless the background is a low score, the highest of all classes is
            that of the class in :attr:`labels`.

        Raises:
            ESCNetError: If there is no such class, or the scores were not kept.
        """
        index = self._index(name)
        if self.score_maps is None:
            raise ESCNetError(
                f'The scores of {self.classes[index]!r} were not kept: segment with '
                'keep_class_scores=True.'
            )
        query = self.query
        if index < query.num_asked:
            words = [index]
        elif query.background_below is not None:
            return 1 - self.scores
        else:
            words = list(range(query.num_asked, len(query.vocabulary)))
        return self.score_maps.of(words, self.normaliser).numpy()

    def mask(self, name: str | int) -> np.ndarray:
        """(H, W) bool: the pixels of one class, given as for :meth:`class_scores`."""
        return self.labels == self._index(name)

    def overlay(self, **options) -> Image.Image:
        """Draw the label map over the image.

        Args:
            options: ``opacity``, ``legend`` and ``tags`` of :func:`.overlay.draw_overlay`.
        """
        classes = dict(names=self.classes, palette=self.palette, num_asked=self.query.num_asked)
        return draw_overlay(self.image, self.labels, **classes, **options)

    def plain_overlay(self, *, opacity: float = 0.55) -> Image.Image:
        """Draw the label map over the image in its own size, without names and legend.

        Args:
            opacity: Of the colours, 0 to 1; outlines are opaque.
        """
        labels = self.labels.astype(np.uint16)
        return Image.fromarray(paint(self.image, labels, self.palette, opacity=opacity))

    def save(
        self,
        path: str | os.PathLike,
        *,
        overlay: str | os.PathLike | None = None,
        scores: str | os.PathLike | None = None,
    ) -> None:
        """Write the label map (``photo.png``), and what its ids mean (``photo.json``).

        Args:
            path: A grey ``.png``, of 8 bits for up to 255 classes, otherwise of 16 bits.
            overlay: Also write the overlay to this ``.png``.
            scores: Also write the scores to this 16-bit ``.png``: 65535 is 1.

        Raises:
            ESCNetError: If a path does not end in .png, is that of another file, or cannot be
                written.
        """
        given = [file for file in (path, overlay, scores) if file is not None]
        for number, file in enumerate(given):
            check_suffix(file, ['.png'])
            if os.path.realpath(file) in map(os.path.realpath, given[:number]):
                raise ESCNetError(
                    f'{file} cannot be two of label map, overlay and scores: give each a name of '
                    'its own.'
                )
        files = {path: encode_label_map(self.labels)}
        if overlay is not None:
            files[overlay] = encode_png(self.overlay())
        if scores is not None:
            files[scores] = encode_scores(self.scores)
        files[Path(path).with_suffix('.json')] = encode_record(self.query.record())
        for file, content in files.items():
            write_file(file, content)

    def to_coco(self, *, image_id: int | str = 1) -> dict:
        """The label map as COCO annotations, ready for ``json`` and readable by ``pycocotools``.

        Args:
            image_id: Id of the image, a whole number (also of NumPy) or a string;
                annotations are numbered from 1.

        Returns:
            ``images`` (one), ``categories`` (N, whose ids are those of the label map) and
            ``annotations``, one for each class present: all its pixels as compressed RLE, its area
            and bounding box in pixels, and its mean score.

        Raises:
            ESCNetError: If the id is something else.
        """
        try:
            image_id = image_id if isinstance(image_id, str) else operator.index(image_id)
        except TypeError as error:
            raise ESCNetError(
                f'image_id={image_id!r} is no id: give a whole number or a string.'
            ) from error
        annotations = []
        for class_id, mask in self._masks():
            encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=class_id,
                    segmentation=dict(
                        size=list(mask.shape), counts=encoded['counts'].decode('ascii')
                    ),
                    area=int(mask.sum()),
                    bbox=coco_mask.toBbox(encoded).tolist(),
                    iscrowd=0,
                    score=float(self.scores[mask].mean(dtype=np.float64)),
                )
            )
        height, width = self.labels.shape
        name = '' if self.source is None else os.path.basename(self.source)
        return dict(
            images=[dict(id=image_id, width=width, height=height, file_name=name)],
            categories=[dict(id=i, name=name) for i, name in enumerate(self.classes)],
            annotations=annotations,
        )

    def to_polygons(self, *, min_area: int = 1, tolerance: float = 0.0) -> dict:
        """The regions of the label map as polygons, a GeoJSON FeatureCollection.

        Coordinates are pixels, x to the right and y down from the upper left corner of the image.
        Outlines follow the edges of the pixels, so the area of a polygon is its number of pixels.

        Args:
            min_area: Regions of fewer pixels are left out.
            tolerance: Simplify outlines by at most this, in pixels. Neighbours may then overlap.

        Returns:
            A feature for each 4-connected region: a ``Polygon`` with holes, and as ``properties``
            its class, id, area in pixels and mean score.

        Raises:
            ESCNetError: If shapely, the extra ``shapes``, is not installed.
        """
        limits = dict(min_area=min_area, tolerance=tolerance)
        features = []
        for class_id, mask in self._masks():
            properties = {'class': self.classes[class_id], 'id': class_id}
            for geometry, measures in trace_regions(mask, self.scores, **limits):
                feature = dict(geometry=geometry, properties=properties | measures)
                features.append(dict(type='Feature', **feature))
        return dict(type='FeatureCollection', features=features)

    def _masks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Id and mask (H, W) of every class present."""
        for class_id in np.unique(self.labels[self.labels != self.no_class]).tolist():
            yield class_id, self.labels == class_id

    def _index(self, name: str | int) -> int:
        if isinstance(name, str):
            return self.query.classes.find(name)
        if isinstance(name, Integral) and 0 <= name < len(self.classes):
            return int(name)
        raise ESCNetError(
            f'There is no class {name!r}: give a name, or an id from 0 to {len(self.classes) - 1}.'
        )

    def __repr__(self) -> str:
        height, width = self.labels.shape
        return f'{type(self).__name__}({width}x{height}: {self.summary()})'
