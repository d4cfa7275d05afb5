"""Segment a photograph with onnxruntime, NumPy and OpenCV alone: no PyTorch, no mmseg_escnet.

    python tools/deployment/onnx_example.py photo.jpg model.onnx words.npz --out-dir results

The two files come from `mmseg-escnet export`. Copy this one into a program of your own.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image or a map (h, w[, 3]) in another size."""
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side; the last one ends with it."""
    last = length - window
    return [*range(0, last, stride), last]


def view_scores(session, view: np.ndarray, text_features: np.ndarray) -> np.ndarray:
    """Scores (N, h, w) of a view (h, w, 3)."""
    image = np.ascontiguousarray(view.transpose(2, 0, 1)[None], np.float32)
    (scores,) = session.run(['scores'], dict(image=image, text_features=text_features))
    return scores[0]


def image_scores(
    session, protocol: dict, image: np.ndarray, text_features: np.ndarray
) -> np.ndarray:
    """Scores (N, h, w) of an image (H, W, 3), RGB, uint8, at the size it is resized to."""
    if protocol['resize']:
        image = resized(image, *protocol['resize'])
    image = image.astype(np.float32)
    (height, width), (rows, columns) = image.shape[:2], protocol['view']
    if height < rows or width < columns:
        raise SystemExit(f'The image is {width}x{height} and a window {columns}x{rows} pixels.')
    stride = protocol['stride'] or (rows, columns)
    total = np.zeros((len(text_features), height, width), np.float32)
    count = np.zeros((height, width), np.float32)
    for top in starts(height, rows, stride[0]):
        for left in starts(width, columns, stride[1]):
            here = np.s_[top : top + rows, left : left + columns]
            total[:, here[0], here[1]] += view_scores(session, image[here], text_features)
            count[here] += 1
    scores = total / count
    if protocol['global_view']:  # the whole image squeezed into one view counts as much
        whole = view_scores(session, resized(image, rows, columns), text_features)
        scores = (scores + np.stack([resized(one, height, width) for one in whole])) / 2
    return scores


def best_words(scores: np.ndarray, height: int, width: int) -> np.ndarray:
    """The best of N scores (N, h, w) for every pixel (height, width) of the photograph."""
    best = np.full((height, width), -np.inf, np.float32)
    words = np.zeros((height, width), np.int64)
    for number, score in enumerate(scores):  # one at a time: all of them would take gigabytes
        score = resized(score, height, width)
        is_better = score > best
        best[is_better] = score[is_better]
        words[is_better] = number
    return words


def main() -> None:
    """Read, segment, write a label map, a picture and the names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('image', type=Path)
    parser.add_argument('model', type=Path)
    parser.add_argument('words', type=Path)
    parser.add_argument('--out-dir', type=Path, default=Path('results'))
    args = parser.parse_args()

    photograph = cv2.imread(str(args.image), cv2.IMREAD_COLOR)  # BGR, turned as EXIF says
    if photograph is None:
        raise SystemExit(f'{args.image} cannot be read.')
    session = onnxruntime.InferenceSession(args.model, providers=['CPUExecutionProvider'])
    protocol = json.loads(session.get_modelmeta().custom_metadata_map['mmseg_escnet'])
    words = np.load(args.words, allow_pickle=False)

    image = cv2.cvtColor(photograph, cv2.COLOR_BGR2RGB)
    scores = image_scores(session, protocol, image, words['text_features'])
    labels = words['label_of_word'][best_words(scores, *image.shape[:2])]

    for folder in ('labels', 'overlays'):
        (args.out_dir / folder).mkdir(parents=True, exist_ok=True)
    names, file = words['names'].tolist(), f'{args.image.name}.png'
    dtype, no_class = (np.uint8, 255) if len(names) <= 255 else (np.uint16, 65535)
    cv2.imwrite(str(args.out_dir / 'labels' / file), labels.astype(dtype))
    colours = words['palette'][labels][..., ::-1]
    picture = cv2.addWeighted(photograph, 0.5, np.ascontiguousarray(colours), 0.5, 0)
    cv2.imwrite(str(args.out_dir / 'overlays' / file), picture)
    # as `mmseg-escnet infer` writes it: names[0] is id 0
    record = dict(names=names, first_id=0, ignore_index=no_class, file='labels/{name}.png')
    (args.out_dir / 'names.json').write_text(json.dumps(record, indent=1) + '\n')
    for label, pixels in zip(*np.unique(labels, return_counts=True), strict=True):
        print(f'{names[label]}: {100 * pixels / labels.size:.1f} %')


if __name__ == '__main__':
    main()
