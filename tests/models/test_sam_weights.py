"""SAM checkpoints in the official layout, against segment_anything's own model."""

import shutil

import pytest
import torch
from conftest import toy_model_cfg
from mmseg.registry import MODELS
from segment_anything import sam_model_registry
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from mmseg_escnet import ESCNetError
from mmseg_escnet.models import sam_weights
from mmseg_escnet.models.sam_weights import find_sam, sam_decoder_state_dict

PROMPT = 'prompt_encoder.'
LAYERS = 'mask_decoder.transformer.layers.'


def toy_sam():
    """A SAM of width 32 with the keys of the real one; its image encoder is of no interest."""
    torch.manual_seed(7)
    return Sam(
        image_encoder=nn.Linear(3, 5),
        prompt_encoder=PromptEncoder(32, (4, 4), (64, 64), mask_in_chans=8),
        mask_decoder=MaskDecoder(
            transformer_dim=32, transformer=TwoWayTransformer(2, 32, 2, mlp_dim=64)
        ),
    )


def neck_of(path, **neck):
    cfg = toy_model_cfg(num_blocks=3, neck=dict(sam_pretrained=str(path), **neck))['neck']
    return MODELS.build(cfg | dict(image_dims=32))


def assert_loaded(neck, sam):
    """Bit by bit, in the shared prompt encoder and in every block."""
    theirs = dict(sam.prompt_encoder.state_dict())
    ours = neck.prompt_encoder.encoder.state_dict()
    assert sorted(ours) == sorted(theirs)
    assert len(ours) > 10
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key
    theirs = sam.mask_decoder.transformer.layers.state_dict()
    assert len(theirs) > 40
    for index, block in enumerate(neck.blocks):
        ours = block.sam_block.layers.state_dict()
        assert sorted(ours) == sorted(k for k in theirs if k.startswith(f'{index % 2}.'))
        for key, value in ours.items():
            assert torch.equal(value, theirs[key]), key


def test_every_block_is_filled(tmp_path):
    sam = toy_sam()
    torch.save(sam.state_dict(), tmp_path / 'sam.pth')
    neck = neck_of(tmp_path / 'sam.pth')
    before = {key: value.clone() for key, value in neck.state_dict().items()}
    neck.init_weights()
    assert_loaded(neck, sam)
    # copies: training one block changes neither the others nor the new layers now
    pointers = {
        next(iter(block.sam_block.layers.values())).mlp.lin1.weight.data_ptr()
        for block in neck.blocks
    }
    assert len(pointers) == 3
    for key, value in neck.state_dict().items():
        pretrained = key.startswith('prompt_encoder.') or 'sam_block.layers.' in key
        assert pretrained or torch.equal(value, before[key]), key
    # what is frozen stays frozen
    assert not any(p.requires_grad for p in neck.prompt_encoder.parameters())


def test_decoder_part_alone(tmp_path):
    sam = toy_sam()
    part = sam_decoder_state_dict(sam.state_dict(), 'sam')
    assert all(key.startswith((PROMPT, LAYERS)) for key in part)
    expected = [key for key in sam.state_dict() if key.startswith((PROMPT, LAYERS))]
    assert list(part) == expected
    torch.save({'state_dict': part}, tmp_path / 'part.pth')
    neck = neck_of(tmp_path / 'part.pth')
    neck.init_weights()
    assert_loaded(neck, sam)


def test_no_sam_block_reads_nothing(tmp_path):
    neck_of(tmp_path / 'missing.pth', sam_block=None).init_weights()


def test_constructor_reads_nothing(tmp_path):
    neck_of(tmp_path / 'missing.pth')


@pytest.mark.parametrize(
    'key', [PROMPT + 'no_mask_embed.weight', LAYERS + '1.cross_attn_image_to_token.q_proj.bias']
)
def test_misfits_are_refused_by_name(tmp_path, key):
    renamed = key + 's'
    for change, names in (
        (
            lambda d: d.update({renamed: d.pop(key)}),
            [f'missing ({key})', f'unexpected ({renamed})'],
        ),
        (lambda d: d.pop(key), [f'1 missing ({key})']),
        (lambda d: d.update({key: d[key][..., :7]}), [f'1 of another shape ({key} is (']),
    ):
        state_dict = dict(toy_sam().state_dict())
        change(state_dict)
        torch.save(state_dict, tmp_path / 'sam.pth')
        with pytest.raises(ESCNetError, match='does not fit') as caught:
            neck_of(tmp_path / 'sam.pth').init_weights()
        assert str(tmp_path / 'sam.pth') in str(caught.value)
        for name in names:
            assert name in str(caught.value)


@pytest.mark.parametrize(
    'key', ['mask_decoder.transformer.extra.weight', PROMPT + 'extra', LAYERS + '2.norm1.bias']
)
def test_unexpected_keys_are_refused_by_name(tmp_path, key):
    torch.save(toy_sam().state_dict() | {key: torch.zeros(3)}, tmp_path / 'sam.pth')
    with pytest.raises(ESCNetError, match=key):
        neck_of(tmp_path / 'sam.pth').init_weights()


@pytest.mark.parametrize('lost', [PROMPT, 'mask_decoder.transformer.'])
def test_half_a_checkpoint_is_refused(tmp_path, lost):
    state_dict = {k: v for k, v in toy_sam().state_dict().items() if not k.startswith(lost)}
    torch.save(state_dict, tmp_path / 'sam.pth')
    with pytest.raises(ESCNetError, match=f'missing .{lost}'):
        neck_of(tmp_path / 'sam.pth').init_weights()


def test_other_models_are_refused(tmp_path):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / 'sam.pth')
    with pytest.raises(ESCNetError, match='is not a SAM checkpoint'):
        neck_of(tmp_path / 'sam.pth').init_weights()


@pytest.mark.parametrize('name', sam_weights.OFFICIAL_SAM_FILES)
def test_official_name_with_other_content_is_refused(tmp_path, name):
    torch.save(toy_sam().state_dict(), tmp_path / name)
    with pytest.raises(ESCNetError, match='not the published file') as caught:
        neck_of(tmp_path / name).init_weights()
    assert sam_weights.OFFICIAL_SAM_FILES[name] in str(caught.value)
    assert find_sam(str(tmp_path / name), verify=False) == tmp_path / name
    # under a name of one's own it is used
    shutil.move(tmp_path / name, tmp_path / 'mine.pth')
    neck_of(tmp_path / 'mine.pth').init_weights()


@pytest.mark.parametrize(
    ('path', 'command'),
    [
        ('data/weights/sam_vit_b_01ec64.pth', 'mmseg-escnet download sam-vit-b`'),
        ('data/weights/sam_vit_l_0b3195.pth', 'mmseg-escnet download sam-vit-l`'),
        ('data/weights/sam_vit_h_4b8939.pth', 'mmseg-escnet download sam-vit-h`'),
        ('/disk/sam_vit_l_0b3195.pth', 'mmseg-escnet download sam-vit-l --out /disk`'),
        ('data/other.pth', 'mmseg-escnet download sam-vit-b`'),
    ],
)
def test_missing_file_names_itself_and_the_command(tmp_path, monkeypatch, path, command):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ESCNetError) as caught:
        find_sam(path)
    assert f'checkpoint {path} does not exist' in str(caught.value)
    assert command in str(caught.value)
    assert '\n' not in str(caught.value)


def test_url_is_downloaded_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = []

    def download(url, target, expected_sha256=None):
        calls.append((url, str(target), expected_sha256))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
        return target

    monkeypatch.setattr(sam_weights, 'download', download)
    assert find_sam('https://example.com/a/my_sam.pth').name == 'my_sam.pth'
    name = 'sam_vit_b_01ec64.pth'
    with pytest.raises(ESCNetError, match='not the published file'):  # what was there before
        find_sam(f'https://example.com/{name}')
    assert calls == [
        ('https://example.com/a/my_sam.pth', 'data/weights/my_sam.pth', None),
        (
            f'https://example.com/{name}',
            f'data/weights/{name}',
            sam_weights.OFFICIAL_SAM_FILES[name],
        ),
    ]


def full_size_neck(path):
    return MODELS.build(
        dict(
            type='ESCNeck',
            image_dims=512,
            num_blocks=2,
            prompt_generator=dict(type='PseudoPromptGenerator'),
            prompt_encoder=dict(type='SAMPromptEncoder'),
            sam_block=dict(type='SAMBlock'),
            fusion=dict(type='VisionLanguageFusion', embed_dims=16, num_heads=2),
            sam_pretrained=str(path),
        )
    )


def test_official_vit_b(tmp_path):
    torch.manual_seed(7)
    sam = sam_model_registry['vit_b']()
    torch.save(sam.state_dict(), tmp_path / 'sam.pth')
    assert (tmp_path / 'sam.pth').stat().st_size == pytest.approx(375e6, rel=0.01)
    neck = full_size_neck(tmp_path / 'sam.pth')
    neck.init_weights()
    assert_loaded(neck, sam)


@pytest.mark.parametrize('model', ['vit_b', 'vit_l', 'vit_h'])
def test_decoders_of_all_sizes_have_the_same_shapes(model):
    with torch.device('meta'):
        sam = sam_model_registry[model]()
        neck = full_size_neck('')
    part = sam_decoder_state_dict(sam.state_dict(), model)
    shapes = {key: value.shape for key, value in part.items()}
    ours = {
        PROMPT + key: value.shape for key, value in neck.prompt_encoder.encoder.state_dict().items()
    }
    for block in neck.blocks:
        for key, value in block.sam_block.layers.state_dict().items():
            ours[LAYERS + key] = value.shape
    assert shapes == ours
    megabytes = sum(value.numel() for value in part.values()) * 4 / 1e6
    assert megabytes == pytest.approx(13, abs=1.5)
