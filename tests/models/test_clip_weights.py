"""CLIP weights in every layout they come in, and the activation they were trained with."""

import copy

import huggingface_hub
import open_clip
import pytest
import torch
from conftest import toy_clip_cfg, toy_model_cfg
from mmseg.registry import MODELS
from safetensors.torch import save_file

from mmseg_escnet import ESCNetError
from mmseg_escnet.files import sha256
from mmseg_escnet.models import OpenCLIPBackbone, weights
from mmseg_escnet.models.clip_weights import find_clip, is_downloaded, load_clip

OPENAI_SCALARS = dict(
    input_resolution=torch.tensor(64),
    context_length=torch.tensor(40),
    vocab_size=torch.tensor(49408),
)


def source_clip(cls=open_clip.CLIP, **cfg):
    """The model that the weights come from; open_clip.CLIP has the text tower at the top."""
    torch.manual_seed(7)
    return cls(**toy_clip_cfg(), **cfg).eval()


def backbone_of(path, **kwargs):
    backbone = OpenCLIPBackbone(model_cfg=toy_clip_cfg(), pretrained=str(path), **kwargs).eval()
    backbone.init_weights()
    return backbone


@torch.no_grad()
def assert_is(backbone, source):
    """Both towers compute exactly what open_clip's own model computes."""
    images = torch.randn(2, 3, 64, 64)
    tokens = open_clip.SimpleTokenizer()(['a cat', 'a taxi'], context_length=40)
    assert torch.equal(backbone.clip.encode_image(images), source.encode_image(images))
    assert torch.equal(backbone.clip.encode_text(tokens), source.encode_text(tokens))
    assert backbone.logit_scale == source.logit_scale.exp()


class Archive(torch.nn.Module):
    """Parameters and buffers by name, to be saved as the TorchScript archive that OpenAI saved."""

    def __init__(self, state_dict):
        super().__init__()
        for name, value in state_dict.items():
            *path, last = name.split('.')
            module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = getattr(module, part)
            module.register_buffer(last, value)

    def forward(self, x: torch.Tensor):
        return x


def save_torchscript(state_dict, path, monkeypatch):
    """As one of the archives that OpenAI published."""
    torch.jit.save(torch.jit.script(Archive(state_dict)), path)
    monkeypatch.setattr(weights, '_openai_digests', lambda: {sha256(path)})


def openai_state_dict(clip, half=False):
    """OpenAI's layout: towers flat, no mask, the three scalars."""
    state_dict = {
        key: value.half() if half else value
        for key, value in clip.state_dict().items()
        if key != 'attn_mask'
    }
    return state_dict | OPENAI_SCALARS


@pytest.mark.parametrize('cls', [open_clip.CLIP, open_clip.CustomTextCLIP])
@pytest.mark.parametrize('suffix', ['.pt', '.safetensors'])
@pytest.mark.parametrize('activation', ['gelu', 'quick_gelu'])
def test_both_layouts_load(tmp_path, cls, suffix, activation):
    source = source_clip(cls, quick_gelu=activation == 'quick_gelu')
    flat = 'text.positional_embedding' not in source.state_dict()
    assert flat == (cls is open_clip.CLIP)
    path = tmp_path / f'clip{suffix}'
    save = save_file if suffix == '.safetensors' else torch.save
    save(source.state_dict(), path)
    backbone = backbone_of(path, activation=activation)
    assert_is(backbone, source)
    assert bool(backbone.quick_gelu) == (activation == 'quick_gelu')


@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('script', [False, True])
def test_openai_file_chooses_quick_gelu(tmp_path, half, script, monkeypatch):
    source = source_clip(quick_gelu=True)
    path = tmp_path / 'clip.pt'
    state_dict = openai_state_dict(source, half)
    if script:
        save_torchscript(state_dict, path, monkeypatch)
    else:
        torch.save(state_dict, path)
    backbone = backbone_of(path)
    assert backbone.quick_gelu
    assert backbone.clip.visual.proj.dtype == torch.float32
    assert_is(backbone, source.half().float() if half else source)


def test_torchscript_without_the_scalars_is_openai_too(tmp_path, monkeypatch):
    source = source_clip(quick_gelu=True)
    save_torchscript(source.state_dict(), tmp_path / 'clip.pt', monkeypatch)
    assert_is(backbone_of(tmp_path / 'clip.pt'), source)


def test_unknown_activation_is_an_error_that_says_what_to_set(tmp_path):
    torch.save(source_clip().state_dict(), tmp_path / 'clip.pt')
    with pytest.raises(ESCNetError) as caught:
        backbone_of(tmp_path / 'clip.pt')
    message = str(caught.value)
    assert str(tmp_path / 'clip.pt') in message
    assert "model.backbone.activation='quick_gelu'" in message
    assert "'gelu'" in message


def test_contradicting_activation_is_refused(tmp_path):
    source = source_clip(quick_gelu=True)
    torch.save(openai_state_dict(source), tmp_path / 'clip.pt')
    with pytest.raises(
        ESCNetError, match=r"activation='gelu' contradicts .*trained with QuickGELU"
    ):
        backbone_of(tmp_path / 'clip.pt', activation='gelu')
    assert_is(backbone_of(tmp_path / 'clip.pt', activation='quick_gelu'), source)


@pytest.mark.parametrize('cls', [open_clip.CLIP, open_clip.CustomTextCLIP])
def test_misfits_are_refused_by_name(tmp_path, cls):
    source = source_clip(cls)
    key = 'visual.transformer.resblocks.1.mlp.c_fc.weight'
    for change, names in (
        (lambda d: d.update(renamed=d.pop(key)), [f'1 missing ({key})', '1 unexpected (renamed)']),
        (lambda d: d.pop(key), [f'1 missing ({key})']),
        (lambda d: d.update(more=torch.zeros(1)), ['1 unexpected (more)']),
        (lambda d: d.update({key: d[key].T}), [f'{key} is (48, 192) instead of (192, 48)']),
        (lambda d: d.pop('logit_scale'), ['1 missing (logit_scale)']),
    ):
        state_dict = dict(source.state_dict())
        change(state_dict)
        torch.save(state_dict, tmp_path / 'clip.pt')
        with pytest.raises(ESCNetError, match='does not fit CustomTextCLIP') as caught:
            backbone_of(tmp_path / 'clip.pt', activation='gelu')
        assert str(tmp_path / 'clip.pt') in str(caught.value)
        for name in names:
            assert name in str(caught.value)


def test_missing_text_key_is_named(tmp_path):
    state_dict = source_clip().state_dict()
    del state_dict['transformer.resblocks.0.ln_1.bias']
    torch.save(state_dict, tmp_path / 'clip.pt')
    with pytest.raises(ESCNetError, match=r'text\.transformer\.resblocks\.0\.ln_1\.bias'):
        backbone_of(tmp_path / 'clip.pt', activation='gelu')


def test_weights_of_another_image_size_are_resized_as_images_are(tmp_path):
    source = source_clip()
    torch.save(source.state_dict(), tmp_path / 'clip.pt')
    larger = OpenCLIPBackbone(
        model_cfg=toy_clip_cfg(image_size=96),
        pretrained=str(tmp_path / 'clip.pt'),
        activation='gelu',
    )
    larger.init_weights()
    images = torch.randn(1, 3, 96, 96)
    plain = backbone_of(tmp_path / 'clip.pt', activation='gelu')
    with torch.no_grad():
        torch.testing.assert_close(larger.eval()(images).image, plain(images).image)


# -- tags ----------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of huggingface_hub, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr(huggingface_hub.constants, 'ENDPOINT', 'http://127.0.0.1:1')
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
    return tmp_path / 'hub'


def put_in_cache(hub, repository, name, content=b''):
    folder = hub / f'models--{repository.replace("/", "--")}'
    (folder / 'refs').mkdir(parents=True, exist_ok=True)
    (folder / 'refs' / 'main').write_text('0123456789abcdef')
    file = folder / 'snapshots' / '0123456789abcdef' / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ('tag', 'quick_gelu'),
    [('openai', True), ('metaclip_400m', True), ('datacomp_xl_s13b_b90k', False)],
)
def test_tag_says_the_activation(tmp_path, monkeypatch, hub, tag, quick_gelu):
    """The file, with nothing but tensors in it, would not."""
    source = source_clip(quick_gelu=quick_gelu)
    save_file(source.state_dict(), tmp_path / 'clip.safetensors')
    asked = []

    def download(cfg):
        asked.append(cfg)
        return str(tmp_path / 'clip.safetensors')

    monkeypatch.setattr(open_clip, 'download_pretrained', download)
    clip = open_clip.CustomTextCLIP(**toy_clip_cfg())
    arguments = dict(model_name='ViT-B-16', pretrained=tag)
    assert load_clip(clip, **arguments, activation='auto') is quick_gelu
    assert asked == [open_clip.get_pretrained_cfg('ViT-B-16', tag)]
    assert torch.equal(clip.visual.proj, source.visual.proj)
    wrong = 'gelu' if quick_gelu else 'quick_gelu'
    with pytest.raises(ESCNetError, match='contradicts'):
        load_clip(clip, **arguments, activation=wrong)


def test_unknown_tag_lists_the_tags():
    with pytest.raises(ESCNetError) as caught:
        find_clip('ViT-B-16', 'opennai')
    message = str(caught.value)
    assert "'opennai' are neither a file nor an open_clip tag" in message
    for tag in open_clip.list_pretrained_tags_by_model('ViT-B-16'):
        assert repr(tag) in message


def test_tag_needs_a_named_architecture():
    with pytest.raises(ESCNetError, match='neither a file nor an open_clip tag'):
        backbone_of('openai')


def assert_one_sentence(error, reason):
    message = str(error.value)
    assert '\n' not in message
    assert reason in message
    assert 'mmseg-escnet download clip --model ViT-B-16 --tag openai' in message


def test_failed_download_is_one_sentence(monkeypatch, hub):
    def download(cfg):
        raise RuntimeError('disk\nfull')

    monkeypatch.setattr(open_clip, 'download_pretrained', download)
    with pytest.raises(ESCNetError) as caught:
        find_clip('ViT-B-16', 'openai')
    assert_one_sentence(caught, '(disk)')


def test_offline(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(ESCNetError) as caught:
        find_clip('ViT-B-16', 'openai')
    assert_one_sentence(caught, 'open_clip_pytorch_model.bin')


@pytest.mark.parametrize('name', ['open_clip_model.safetensors', 'open_clip_pytorch_model.bin'])
def test_what_was_downloaded_is_found_without_network(hub, monkeypatch, name):
    file = put_in_cache(hub, 'timm/vit_base_patch16_clip_224.openai', name)
    monkeypatch.setattr(open_clip, 'download_pretrained', lambda tag: pytest.fail('downloads'))
    assert find_clip('ViT-B-16', 'openai') == (file, True)


def test_cache_is_searched_in_the_order_of_open_clip(hub):
    for name in ('open_clip_pytorch_model.bin', 'open_clip_model.safetensors'):
        file = put_in_cache(hub, 'timm/vit_base_patch16_clip_224.openai', name)
    assert find_clip('ViT-B-16', 'openai')[0] == file
    # and it is the file that open_clip itself takes
    tag = open_clip.get_pretrained_cfg('ViT-B-16', 'openai')
    huggingface_hub.constants.HF_HUB_OFFLINE = True  # the fixture sets it back
    assert open_clip.download_pretrained(tag) == str(file)


def test_cache_of_a_tag_that_names_its_file(hub):
    file = put_in_cache(hub, 'jienengchen/ViTamin-S', 'pytorch_model.bin')
    assert find_clip('ViTamin-S', 'datacomp1b')[0] == file


def test_what_is_on_this_machine(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(open_clip, 'download_pretrained', lambda tag: pytest.fail('downloads'))
    assert not is_downloaded('ViT-B-16', 'openai')
    put_in_cache(hub, 'timm/vit_base_patch16_clip_224.openai', 'open_clip_model.safetensors')
    assert is_downloaded('ViT-B-16', 'openai')
    assert not is_downloaded('ViT-L-14', 'openai')
    (tmp_path / 'clip.pt').touch()
    assert is_downloaded('ViT-B-16', str(tmp_path / 'clip.pt'))


def test_file_wins_over_tag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'openai').touch()
    path, quick_gelu = find_clip('ViT-B-16', 'openai')
    assert path.is_file()
    assert quick_gelu is None


# -- within ESC-Net ------------------------------------------------------------------------------


@pytest.mark.parametrize('quick_gelu', [False, True])
def test_mmengine_initialises_the_whole_model(tmp_path, quick_gelu):
    """It keeps a record in every module, so none may come or go when the weights are loaded."""
    torch.save(source_clip().state_dict(), tmp_path / 'clip.pt')
    cfg = toy_model_cfg()
    activation = 'quick_gelu' if quick_gelu else 'gelu'
    cfg['backbone'] |= dict(pretrained=str(tmp_path / 'clip.pt'), activation=activation)
    model = MODELS.build(cfg)
    before = list(model.modules())
    model.init_weights()
    assert list(map(id, model.modules())) == list(map(id, before))
    assert bool(model.backbone.quick_gelu) == quick_gelu
    assert torch.equal(model.backbone.clip.visual.proj, source_clip().visual.proj)


@torch.no_grad()
def test_activation_travels_with_a_checkpoint(tmp_path):
    """A fresh model, without the pretrained weights, computes what the saved one did."""
    torch.save(openai_state_dict(source_clip(quick_gelu=True)), tmp_path / 'clip.pt')
    cfg = toy_model_cfg()
    cfg['backbone']['pretrained'] = str(tmp_path / 'clip.pt')
    trained = MODELS.build(cfg)
    trained.init_weights()
    torch.save({'state_dict': trained.state_dict()}, tmp_path / 'checkpoint.pth')

    torch.manual_seed(1)
    fresh = MODELS.build(toy_model_cfg())
    images = torch.randn(1, 3, 64, 64)
    outputs = []
    for model in (trained, fresh):
        model.eval().set_vocabulary(['cat', 'wet road'])
        outputs.append(model.encode_decode(images, []))
    assert not torch.equal(*outputs)
    from mmengine.runner import load_checkpoint

    load_checkpoint(fresh, str(tmp_path / 'checkpoint.pth'), map_location='cpu', strict=True)
    assert fresh.backbone.quick_gelu
    assert torch.equal(fresh.encode_decode(images, []), outputs[0])


@pytest.mark.parametrize(
    ('name', 'size', 'script'),
    [
        ('ViT-B-16', 224, False),
        ('ViT-B-16', 224, True),
        ('ViT-L-14-336', 336, False),
    ],
)
def test_official_layout_at_full_width(tmp_path, name, size, script, monkeypatch):
    """As OpenAI publishes them: half precision, scalars beside the weights, either format.

    Of three layers, since all layers are alike.
    """
    cfg = {k: v for k, v in open_clip.get_model_config(name).items() if k != 'custom_text'}
    cfg['vision_cfg']['layers'] = cfg['text_cfg']['layers'] = 3
    monkeypatch.setattr(open_clip, 'get_model_config', lambda _: copy.deepcopy(cfg))
    source = open_clip.CLIP(**cfg, quick_gelu=True).eval()
    state_dict = openai_state_dict(source, half=True)
    state_dict |= dict(input_resolution=torch.tensor(size), context_length=torch.tensor(77))
    file = tmp_path / f'{name}.pt'
    if script:
        save_torchscript(state_dict, file, monkeypatch)
    else:
        torch.save(state_dict, file)
    del state_dict
    backbone = OpenCLIPBackbone(model_name=name, pretrained=str(file))
    backbone.eval().init_weights()
    file.unlink()
    source = source.half().float()
    images = torch.randn(1, 3, size, size)
    tokens = open_clip.get_tokenizer(name)(['a cat', 'a wet road'])
    with torch.no_grad():
        assert torch.equal(backbone.clip.encode_image(images), source.encode_image(images))
        assert torch.equal(backbone.clip.encode_text(tokens), source.encode_text(tokens))
        image = backbone(torch.randn(1, 3, 384, 384)).image
    assert image.shape == (1, backbone.embed_dims, 24, 24)
