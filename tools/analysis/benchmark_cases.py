"""What is measured: the cases, and how each is built and run.

N classes, B images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import torch
from benchmark_measure import (
    DTYPES,
    OthersBusy,
    PeakMemory,
    count_flops,
    matmul_peak,
    time_calls,
    time_parts,
)
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData

import mmseg_escnet
from mmseg_escnet.datasets.benchmark_vocabularies import vocabulary_names
from mmseg_escnet.errors import ESCNetError


@dataclass(frozen=True)
class Setting:
    """A way to use the model.

    Attributes:
        options: Settings of the config that it changes, such as ``'model.test_cfg.mode': 'whole'``.
        squeezed: Bring a photograph to the size of one window first.
    """

    options: dict = field(default_factory=dict)
    squeezed: bool = False


_SHORTLIST = {'model.test_cfg.shortlist': dict(top_k=32)}
SETTINGS = {
    'exact': Setting(),
    'shortlist': Setting(_SHORTLIST),
    'fast': Setting(_SHORTLIST | {'model.test_cfg.mode': 'whole'}, squeezed=True),
}
MODES = ('window', 'image')
SAN_CONFIG = 'mmseg::san/san-vit-b16_coco-stuff164k-640x640.py'
VOCABULARY = 'ade847'


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        kind: 'machine' (matrix products), 'clip' (one dense CLIP forward), 'text' (encoding the
            vocabulary), 'escnet' (predicting), 'san' (the peer, predicting), 'training' (a step).
        device: 'cpu' or 'cuda'.
        dtype: 'fp32', or 'bf16' by autocast.
        config: Path of the config; empty where the kind needs none.
        setting: Key of :data:`SETTINGS`.
        mode: 'window' (one crop) or 'image' (a photograph, by the config's protocol).
        classes: N.
    """

    kind: str
    device: str
    dtype: str = 'fp32'
    config: str = ''
    setting: str = ''
    mode: str = ''
    classes: int = 0

    @property
    def model(self) -> str:
        """Short name of what is measured."""
        return Path(self.config).stem or {'san': 'SAN ViT-B/16'}.get(self.kind, '')

    @property
    def name(self) -> str:
        """One word for each part, such as 'escnet-escnet_toy-exact-window-20-fp32-cpu'."""
        parts = (self.kind, Path(self.config).stem, self.setting, self.mode)
        classes = str(self.classes or '')
        return '-'.join(part for part in (*parts, classes, self.dtype, self.device) if part)

    @property
    def weight(self) -> float:
        """About how long it takes beside others, for the progress bar."""
        if self.kind in ('machine', 'clip', 'san'):
            return 15
        if self.kind == 'text':
            return 5 + self.classes / 20
        views = 5 if self.mode == 'image' else 1
        return (20 + self.classes * views) * (0.6 if self.dtype == 'bf16' else 1)


def conditions_of(case: Case, *, common: dict) -> dict:
    """Everything besides the case that its figures depend on.

    Args:
        case: What is measured.
        common: Conditions of all cases: ``threads``, ``image_size``, ``cfg_options``, versions.
    """
    own = dict(setting=repr(SETTINGS.get(case.setting)), model=_digest(case.config))
    if case.device == 'cuda':
        own['gpu'] = torch.cuda.get_device_name()
    return common | own


@cache
def _digest(config: str) -> str:
    """SHA-256 of a config with all that it inherits, and of the source of the model."""
    if not config:
        return ''
    digest = hashlib.sha256(repr(Config.fromfile(config).to_dict()).encode())
    for file in sorted((Path(mmseg_escnet.__file__).parent / 'models').rglob('*.py')):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def cases_of(args) -> list[Case]:
    """The cases that the command line asks for, in the order in which they are run."""
    cases = []
    for device in args.devices:
        cases.append(Case('machine', device))
        for config in args.configs:
            base = Case('clip', device, config=config)
            cases += [replace(base, dtype=dtype) for dtype in args.dtypes]
            cases += [replace(base, kind='text', classes=classes) for classes in args.classes]
            cases += [
                replace(base, kind='escnet', dtype=dtype, setting=setting, mode=mode, classes=n)
                for mode in args.modes
                for setting in args.settings
                if mode == 'image' or not SETTINGS[setting].squeezed
                for dtype in args.dtypes
                for n in args.classes
            ]
            cases += [
                replace(base, kind='training', dtype=dtype, mode='window', classes=n)
                for dtype in args.dtypes
                for n in args.training_classes
            ]
        if args.san:
            cases += [
                Case('san', device, dtype=dtype, mode='image', classes=classes)
                for dtype in args.dtypes
                for classes in args.classes
            ]
    return cases


def class_names(count: int) -> list[str]:
    """The first names of ADE20K-847.

    Raises:
        ESCNetError: If there are not so many.
    """

    names = vocabulary_names(VOCABULARY)
    if not 1 <= count <= len(names):
        raise ESCNetError(f'--classes {count}: it must be from 1 to {len(names)}.')
    return list(names[:count])


# -- run in a process of its own -----------------------------------------------------------------


def measure_case(case: Case, conditions: dict, *, repeats: int, seconds: float) -> dict:
    """Measure a case in this process.

    Args:
        case: What is measured.
        conditions: Of :func:`conditions_of`.
        repeats: Timed calls, at least.
        seconds: No further call once that much time is spent.

    Returns:
        A row: case, conditions and figures, in bytes, seconds and operations.
    """

    torch.set_num_threads(conditions['threads'])
    torch.manual_seed(0)
    init_default_scope('mmseg')
    measure = {'machine': _measure_machine, 'text': _measure_text}.get(case.kind, _measure_model)
    found = measure(case, conditions, repeats=repeats, seconds=seconds)
    return dict(case=asdict(case), conditions=conditions, **found)


def _measure_machine(case: Case, conditions: dict, *, repeats: int, seconds: float) -> dict:
    watch = OthersBusy()
    device, each = torch.device(case.device), seconds / 40
    peaks = {name: matmul_peak(device, dtype, each) for name, dtype in DTYPES.items()}
    return dict(matmul_flops_per_second=peaks, others_busy=watch.cores_since())


def _measure_text(case: Case, conditions: dict, *, repeats: int, seconds: float) -> dict:
    model, _ = _build_escnet(case, conditions)
    encode = torch.no_grad()(lambda: model.text_encoder(model.backbone.clip, model.vocabulary))
    flops = count_flops(encode)
    timing = time_calls(encode, device=torch.device(case.device), repeats=repeats, seconds=seconds)
    return timing | dict(flops=flops)


def _measure_model(case: Case, conditions: dict, *, repeats: int, seconds: float) -> dict:
    build = dict(clip=_clip_run, escnet=_escnet_run, san=_san_run, training=_training_run)
    run, clip, device = build[case.kind](case, conditions)
    with PeakMemory(device) as memory:
        run()  # the first call: it also warms up
        if case.kind == 'training':
            run()  # the optimiser has its moments only after the first step
    timing = time_calls(run, device=device, repeats=repeats, seconds=seconds, yardstick=clip)
    found = dict(peak_memory=memory.peak, memory_before=memory.before, memory_since=memory.since)
    if case.kind in ('escnet', 'training'):
        found['parts'] = time_parts(run, device)
    return timing | found | dict(flops=count_flops(run))


Run = Callable[[], object]


def _build_escnet(case: Case, conditions: dict):
    """The model with its words, and the config."""
    from mmseg.registry import MODELS

    cfg = Config.fromfile(case.config)
    cfg.merge_from_dict(conditions['cfg_options'])
    if case.setting:
        cfg.merge_from_dict(SETTINGS[case.setting].options)
    cfg.model.backbone.pretrained = cfg.model.neck.sam_pretrained = None
    if case.mode == 'window':
        cfg.model.test_cfg.mode = 'whole'
    model = MODELS.build(cfg.model).eval().to(case.device)
    if case.classes:
        model.set_vocabulary(class_names(case.classes))
    return model, cfg


def _crop_size(cfg) -> tuple[int, int]:
    """Of a window, (height, width)."""
    return tuple(cfg.model.test_cfg.get('crop_size', cfg.model.data_preprocessor.size))


def _inputs(size: tuple[int, int], device: str):
    return torch.randn(1, 3, *size, device=device)


def _autocast(case: Case):
    if case.dtype == 'fp32':
        return nullcontext()
    return torch.autocast(case.device, dtype=DTYPES[case.dtype])


def _clip_forward(model, cfg, case: Case, context) -> Run:
    window = _inputs(_crop_size(cfg), case.device)

    @torch.no_grad()
    def run() -> None:
        with context():
            model.backbone(window)

    return run


def _predict(model, size: tuple[int, int], case: Case, seen: tuple[int, int]) -> Run:
    """Labels of an image of some size, which the network may see at another."""
    from mmseg.structures import SegDataSample

    image = _inputs(seen, case.device)
    meta = dict(ori_shape=size, img_shape=seen, pad_shape=seen, padding_size=[0, 0, 0, 0])

    @torch.no_grad()
    def run() -> None:
        with _autocast(case):
            model.predict(image, [SegDataSample(metainfo=meta)])

    return run


def _clip_run(case: Case, conditions: dict):
    model, cfg = _build_escnet(case, conditions)
    run = _clip_forward(model, cfg, case, lambda: _autocast(case))
    return run, None, torch.device(case.device)


def _escnet_run(case: Case, conditions: dict):
    model, cfg = _build_escnet(case, conditions)
    crop = _crop_size(cfg)
    size = crop if case.mode == 'window' else (conditions['image_size'],) * 2
    seen = crop if SETTINGS[case.setting].squeezed else size
    with torch.no_grad():
        model.text_features()  # once per vocabulary: measured as 'text'
    clip = _clip_forward(model, cfg, case, nullcontext)
    return _predict(model, size, case, seen), clip, torch.device(case.device)


def _training_run(case: Case, conditions: dict):
    """A step of one crop: forward, loss, backward, optimiser."""
    from mmseg.structures import SegDataSample

    # the optimizer's constructor logs several lines per parameter
    MMLogger.get_instance('benchmark').setLevel('ERROR')
    model, cfg = _build_escnet(case, conditions)
    size = _crop_size(cfg)
    clip = _clip_forward(model, cfg, case, nullcontext)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    images = _inputs(size, case.device)
    labels = torch.randint(0, case.classes, (1, *size), device=case.device)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=labels))]

    def run() -> None:
        model.train()
        with _autocast(case):
            loss, _ = model.parse_losses(model.loss(images, samples))
        optimizer.update_params(loss)
        model.eval()

    return run, clip, torch.device(case.device)


def _san_run(case: Case, conditions: dict):
    """MMSegmentation's SAN with random weights; its text embeddings are made beforehand."""
    from mmseg.registry import MODELS

    cfg = get_config(SAN_CONFIG).model
    names = class_names(case.classes)
    cfg.pretrained = None
    cfg.text_encoder.update(dataset_name=None, vocabulary=names)
    cfg.decode_head.num_classes = len(names)
    cfg.decode_head.loss_decode[0].class_weight = [1.0] * len(names) + [0.1]
    model = MODELS.build(cfg).eval().to(case.device)
    width = model.text_encoder.text_projection.shape[1]
    model.text_encoder.cache.update(
        (name, torch.randn(width, device=case.device)) for name in names
    )
    size = (conditions['image_size'],) * 2
    run = _predict(model, size, case, size)
    return run, None, torch.device(case.device)
