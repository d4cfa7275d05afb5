"""A pickle that leaves a file, planted wherever a file of a stranger is read: it does not run."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import toy_model_cfg
from mmseg.registry import MODELS

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis import OpenVocabInferencer
from mmseg_escnet.class_files import read_classes
from mmseg_escnet.engine import latest_whole_checkpoint
from mmseg_escnet.models.clip_weights import load_clip
from mmseg_escnet.models.sam_weights import load_sam_decoder
from mmseg_escnet.toyworld.model import toy_model


class Payload:
    """Its pickle makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def left_behind(tmp_path) -> Path:
    """What the payload would leave, and does not in the test."""
    folder = tmp_path / 'left_behind'
    yield folder
    assert not folder.exists()


@pytest.fixture
def pickled(left_behind) -> bytes:
    content = pickle.dumps(Payload(left_behind))
    pickle.loads(content)
    left_behind.rmdir()  # it is malicious indeed
    return content


@pytest.fixture(params=['archive', 'legacy', 'bare'])
def checkpoint(request, tmp_path, left_behind, pickled) -> Path:
    """A checkpoint of the toy model with the payload beside the weights."""
    path = tmp_path / 'iter_8.pth'
    if request.param == 'bare':
        path.write_bytes(pickled)
        return path
    state_dict = torch.load(toy_model()[1], map_location='cpu', weights_only=True)
    content = dict(state_dict=state_dict.get('state_dict', state_dict), meta=Payload(left_behind))
    torch.save(content, path, _use_new_zipfile_serialization=request.param == 'archive')
    return path


def test_inferencer(checkpoint):
    config, _ = toy_model()
    with pytest.raises(ESCNetError, match='iter_8'):
        OpenVocabInferencer(config, checkpoint, device='cpu')


def test_resumed_training(checkpoint):
    """A work dir from a stranger."""
    with pytest.raises(ESCNetError, match='iter_8'):
        latest_whole_checkpoint(checkpoint.parent)


def test_clip_and_sam(checkpoint):
    model = MODELS.build(toy_model_cfg())
    with pytest.raises(ESCNetError, match='iter_8'):
        load_clip(
            model.backbone.clip, model_name=None, pretrained=str(checkpoint), activation='gelu'
        )
    with pytest.raises(ESCNetError, match='iter_8'):
        load_sam_decoder(str(checkpoint), prompt_encoder=torch.nn.Identity(), transformer_layers=())


def test_array_file_as_image(tmp_path, left_behind):
    path = tmp_path / 'a.png'
    with open(path, 'wb') as file:
        np.save(file, np.array([Payload(left_behind)], object), allow_pickle=True)
    inferencer = OpenVocabInferencer(*toy_model(), device='cpu')
    with pytest.raises(ESCNetError, match=r'a\.png'):
        inferencer(path, ['sky'])


def test_yaml_of_classes(tmp_path, left_behind):
    path = tmp_path / 'words.yaml'
    path.write_text(f'classes: !!python/object/apply:os.mkdir ["{left_behind}"]\n')
    with pytest.raises(ESCNetError, match=r'words\.yaml'):
        read_classes(path)
