"""Fixtures shared by all tests: everything at toy size, on the CPU, without network."""

import importlib.util
import sys
from pathlib import Path

import mmengine.config.config
import open_clip
import pytest
import torch
import yapf.yapflib.yapf_api
from mmengine.registry import init_default_scope

import mmseg_escnet.components  # noqa: F401  before any test imports mmseg

# MMEngine has yapf format the whole config for each log and each checkpoint, which takes longer
# than the training steps of the toy model. (onedl-mmengine imports it as late as that.)
mmengine.config.config.FormatCode = lambda text, **_: (text, True)
yapf.yapflib.yapf_api.FormatCode = mmengine.config.config.FormatCode

ROOT = Path(__file__).resolve().parents[1]
REAL_SAMPLES = ROOT.parent / 'shared' / 'real_samples'


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _default_scope():
    """A runner that a test makes without a scope leaves MMEngine's to the tests that follow."""
    yield
    init_default_scope('mmseg')


_NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=[pytest.mark.gpu, _NO_GPU])])
def device(request) -> str:
    """The type of a device: a test runs on the CPU, and on a GPU if there is one."""
    return request.param


@pytest.fixture(scope='session')
def root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture(scope='session')
def real_samples() -> Path:
    """Real annotated photographs, which are not part of the repository."""
    if not REAL_SAMPLES.is_dir():
        pytest.skip(f'real photographs are not at {REAL_SAMPLES}')
    return REAL_SAMPLES


def load_tool(path: str):
    """A tool, such as ``'tools/train.py'``, as a module; it may import what lies beside it."""
    path = ROOT / path
    spec = importlib.util.spec_from_file_location(f'{path.stem}_tool', path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        spec.loader.exec_module(module)
    return module


def toy_clip_cfg(**vision) -> dict:
    """Arguments of open_clip.CustomTextCLIP: D = 32, W = 48, 4 x 4 patches of 16 px natively."""
    return dict(
        embed_dim=32,
        vision_cfg=dict(image_size=64, layers=3, width=48, head_width=16, patch_size=16) | vision,
        text_cfg=dict(context_length=40, vocab_size=49408, width=32, heads=2, layers=2),
    )


def small_clip_cfg() -> dict:
    """ViT-B/16 of 224 pixels with CLIP's context of 77, narrow and with three layers."""
    cfg = toy_clip_cfg(image_size=224)
    return cfg | dict(text_cfg=cfg['text_cfg'] | dict(context_length=77))


def write_openai_clip(path: Path) -> open_clip.CLIP:
    """Write random weights of :func:`small_clip_cfg` in OpenAI's layout; returns the model."""
    torch.manual_seed(3)
    model = open_clip.CLIP(**small_clip_cfg(), quick_gelu=True).eval()
    for name, parameter in model.named_parameters():
        if 'ln_' in name or name.endswith('bias'):  # as built they are ones and zeros
            torch.nn.init.normal_(parameter, mean=float('weight' in name), std=0.3)
    state_dict = {key: value for key, value in model.state_dict().items() if key != 'attn_mask'}
    scalars = dict(input_resolution=224, context_length=77, vocab_size=49408)
    torch.save(state_dict | {key: torch.tensor(v) for key, v in scalars.items()}, path)
    return model


def toy_model_cfg(*, num_blocks: int = 2, neck: dict | None = None, **kwargs) -> dict:
    """A whole ESC-Net of some hundred thousand parameters: C = 32, d = 16, K = 3."""
    neck_cfg = dict(
        type='ESCNeck',
        num_blocks=num_blocks,
        prompt_generator=dict(type='PseudoPromptGenerator', num_objects=3),
        prompt_encoder=dict(type='SAMPromptEncoder', embed_dims=32, mask_channels=8),
        sam_block=dict(type='SAMBlock', embed_dims=32, num_heads=2, mlp_dims=64),
        fusion=dict(type='VisionLanguageFusion', embed_dims=16, num_heads=2, window_size=4),
        guidance_dims=32,
    )
    neck_cfg.update(neck or {})
    return (
        dict(
            type='ESCNet',
            data_preprocessor=dict(
                type='SegDataPreProcessor',
                mean=[122.7709383, 116.7460125, 104.09373615],
                std=[68.5005327, 66.6321579, 70.3231630],
                bgr_to_rgb=True,
                size=(64, 64),
                seg_pad_val=255,
            ),
            backbone=dict(type='OpenCLIPBackbone', model_cfg=toy_clip_cfg()),
            text_encoder=dict(type='OpenCLIPTextEncoder'),
            neck=neck_cfg,
            decode_head=dict(
                type='OpenVocabularyHead', stage_channels=(16, 16), skip_channels=(8, 8)
            ),
        )
        | kwargs
    )
