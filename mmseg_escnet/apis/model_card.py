"""The card of a published model: what is recorded of it, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCardData
from mmengine.config import Config

from ..config import config_folder
from ..errors import ESCNetError, first_few
from ..evaluation.zero_shot_benchmarks import Figures
from ..evaluation.zero_shot_runs import read_results
from ..files import sha256
from ..tables import table
from ..version import __version__
from .inferencer import OpenVocabInferencer

# what weights were made of, as a pattern -> its name, its licence
_LICENCES = {
    'CLIP openai': (
        'CLIP of OpenAI',
        'MIT. Its [model card](https://github.com/openai/CLIP/blob/main/model-card.md) declares '
        'any deployed use out of scope for now, surveillance and face recognition always, and '
        'languages other than English; CLIP is biased for and against groups of people',
    ),
    r'CLIP (laion|datacomp)\w*': ('CLIP of OpenCLIP', 'MIT; see also the card of its weights'),
    r'CLIP merged2b\w*': ('EVA-02-CLIP', '[MIT](https://github.com/baaivision/EVA)'),
    r'SAM (.*/)?sam_vit_[blh]_\w{6}\.pth': (
        'decoder of SAM',
        '[Apache-2.0](https://github.com/facebookresearch/segment-anything)',
    ),
    r'data COCOStuff\w+': (
        'COCO-Stuff',
        '[annotations CC BY 4.0, images under the terms of use of '
        'Flickr](https://github.com/nightrome/cocostuff#licensing)',
    ),
    r'(data ToyWorldDataset|(CLIP|SAM|checkpoint) .*data/toyworld/\w+\.pth)': (
        'the toy world',
        'Apache-2.0, a part of this package',
    ),
}


def read_figures(paths: Sequence[Path], checkpoint_sha256: str, *, skip: bool) -> list[dict]:
    """The figures of a checkpoint in files of ``mmseg-escnet test``.

    Args:
        paths: The files.
        checkpoint_sha256: Of the checkpoint.
        skip: Leave out those of other checkpoints, and first looks.

    Returns:
        The entries, with the benchmark or data set as ``key``.

    Raises:
        ESCNetError: If a file cannot be read, or has figures of another checkpoint.
    """
    found = []
    for path in paths:
        for key, entry in read_results(path).items():
            digest = entry.get('checkpoint_sha256')
            if skip and entry.get('note') is not None:
                continue
            if digest == checkpoint_sha256:
                augmented = (entry.get('protocol') or {}).get('augmented')
                found.append(entry | dict(key=f'{key}, augmented' if augmented else key))
            elif not skip:
                raise ESCNetError(
                    f'The figures of {key} in {path} are of another checkpoint, '
                    f'{entry.get("checkpoint")} with the SHA-256 {digest}, not {checkpoint_sha256}:'
                    ' evaluate this one with mmseg-escnet test, or leave the file out.'
                )
    return found


def describe(
    file: Path,
    seg: OpenVocabInferencer,
    *,
    dtype: str,
    config: Config,
    source: str,
    meta: Mapping,
    trained_with: Config | None,
    figures: Sequence[Mapping],
) -> tuple[str, str]:
    """Describe an inference file.

    Args:
        file: The file.
        seg: Made of it.
        dtype: Of its weights.
        config: What it was made with.
        source: Name of the checkpoint that it was made of.
        meta: Of that checkpoint.
        trained_with: The config in ``meta``, if any.
        figures: From :func:`read_figures`. Those of a part of the images are only in the text.

    Returns:
        The model card, Markdown with the front matter of the Hugging Face hub, and an entry for a
        metafile of OpenMMLab, YAML.
    """
    comparable = [each for each in figures if each.get('images') == each.get('published_images')]
    cfg = trained_with or {}
    loader = cfg.get('train_dataloader') or {}
    data = list(dict.fromkeys(str(each.get('type')) for each in _leaves(loader.get('dataset'))))
    start = None if cfg.get('resume') else cfg.get('load_from')
    batch, steps = loader.get('batch_size'), meta.get('iter')
    parameters = sum(parameter.numel() for parameter in seg.model.parameters())
    facts = {
        'file': f'`{file.name}`, {file.stat().st_size / 1e6:.1f} MB, {dtype}',
        'SHA-256': f'`{sha256(file)}`',
        'parameters': parameters,
        'default words': f'{len(seg.vocabulary)}: {first_few(seg.vocabulary.names)}',
        'made of': f'`{source}`',
        'training data': ', '.join(data) or None,
        'steps': steps,
        'images in a step': batch and f'{batch} for each process',
        'written': meta.get('time'),
    } | ({'started from': f'`{Path(start).name}`'} if start else {})
    rows = [[key, 'not recorded' if value is None else value] for key, value in facts.items()]
    licences = _licences(config.model, data, start)
    of_hub = [
        EvalResult(
            task_type='image-segmentation',
            dataset_type=entry['key'],
            dataset_name=entry['key'],
            metric_type='mean_iou',
            metric_name=name,
            metric_value=value,
        )
        for entry in comparable
        for name, value in entry['metrics'].items()
        if 'mIoU' in name and value is not None
    ]
    front = ModelCardData(
        license='apache-2.0' if all(licences.values()) else 'other',
        library_name='mmseg_escnet',
        pipeline_tag='image-segmentation',
        tags=['semantic-segmentation', 'open-vocabulary', 'mmsegmentation'],
        datasets=data or None,
        **(dict(model_name=file.stem, eval_results=of_hub, metrics=['mean_iou']) if of_hub else {}),
    )
    card = _CARD.format(
        front=front.to_yaml().strip(),
        name=file.stem,
        version=__version__,
        facts=table(['', ' '], rows, markdown=True, align='l'),
        figures=_describe_figures(figures, source, dtype),
        licences='\n'.join(
            f'- {part}: {terms}.' if terms else f'- Check the licence of {part}.'
            for part, terms in licences.items()
        ),
        config=config.pretty_text.strip(),
    )
    stem = re.sub(r'_\d{8}-\w+$', '', file.stem)
    where = next(config_folder().glob(f'[!_]*/**/{stem}.py'), None)
    entry = {
        'Name': file.stem,
        'In Collection': 'ESC-Net',
        'Config': where and where.relative_to(config_folder().parent).as_posix(),
        'Metadata': {
            'Training Data': data or None,
            'Batch Size': batch,
            'Iterations': steps,
            'Parameters': parameters,
        },
        'Results': [
            dict(Task='Semantic Segmentation', Dataset=each['key'], Metrics=each['metrics'])
            for each in comparable
        ],
        'Weights': file.name,
    }
    return card, yaml.safe_dump({'Models': [entry]}, sort_keys=False)


_CARD = """\
---
{front}
---

# {name}

A model for open-vocabulary semantic segmentation, published with mmseg_escnet {version}, an
implementation of [ESC-Net](https://arxiv.org/abs/2411.14723).

{facts}

## Use

```python
from mmseg_escnet.apis import OpenVocabInferencer

seg = OpenVocabInferencer('{name}.safetensors')  # or its URL
result = seg('photo.jpg', classes=['taxi', 'wet road', 'sofa | couch'])
result.overlay().save('overlay.png')
```

```bash
mmseg-escnet infer photo.jpg --classes "taxi, wet road" --checkpoint {name}.safetensors
```

## Figures

{figures}

## Licences

What the weights were made of has terms of its own:

{licences}

## Config

```python
{config}
```
"""


def _leaves(dataset: Mapping | None) -> list[Mapping]:
    """The data sets in wrappers."""
    if not dataset:
        return []
    inner = dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else [])
    return [leaf for each in inner for leaf in _leaves(each)] or [dataset]


def _licences(model: Mapping, data: Sequence[str], start: str | None) -> dict[str, str | None]:
    """The licence of each part that the weights were made of; None if it is not known."""
    parts = [('CLIP', model['backbone'].get('pretrained')), ('checkpoint', start)]
    parts += [('SAM', (model.get('neck') or {}).get('sam_pretrained'))]
    parts += [('data', name) for name in data or ['for training, which is not recorded']]
    found = {}
    for kind, part in parts:
        if part is not None:
            known = (v for k, v in _LICENCES.items() if re.fullmatch(k, f'{kind} {part}'))
            name, terms = next(known, (f'{kind} {Path(part).name}', None))
            found[name] = terms
    return found


def _describe_figures(figures: Sequence[Mapping], source: str, dtype: str) -> str:
    if not figures:
        return 'None: there are no results of an evaluation of this checkpoint.'
    names = list(dict.fromkeys(name for entry in figures for name in entry['metrics']))
    rows, how = [], {}
    for entry in figures:
        numbers = [entry['metrics'].get(name) for name in names]
        images = Figures({}, entry.get('images'), entry.get('published_images')).count
        rows.append([entry['key'], images, *('-' if n is None else f'{n:.2f}' for n in numbers)])
        version = entry.get('version', 'of a version that is not recorded')
        other = '' if version == __version__ else ', **not the version that made this file**'
        made = (
            f'with mmseg_escnet {version}{other}:\n\n'
            f'```bash\n{entry.get("command") or "# not recorded"}\n```\n\n'
            f'```json\n{json.dumps(entry.get("protocol"))}\n```'
        )
        how.setdefault(made, []).append(entry['key'])
    rounded = '' if dtype == 'float32' else f' before its weights were rounded to {dtype}'
    remark = f'In percent, of `{source}`{rounded}.'
    blocks = [f'{", ".join(keys)}, {made}' for made, keys in how.items()]
    return '\n\n'.join([table(['data', 'images', *names], rows, markdown=True), remark, *blocks])
