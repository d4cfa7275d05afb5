"""How much of F_v' depends on the prompts: on a model whose answer is known."""

import importlib

import pytest
import torch
from conftest import ROOT, toy_model_cfg
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/toyworld'))
    init_default_scope('mmseg')
    return importlib.import_module('prompt_influence')


def influence_of(tool, **sam_block):
    cfg = toy_model_cfg()
    cfg['neck']['sam_block'].update(sam_block)
    torch.manual_seed(0)
    model = MODELS.build(cfg).eval()
    model.set_vocabulary(['cat', 'dog', 'bird'])
    return tool.measure_influence(model, list(torch.randn(2, 1, 3, 64, 64)))


def test_exchanged_prompts_cannot_be_told_where_classes_are_fused_by_their_mean(tool):
    found = influence_of(tool, class_fusion='mean')
    assert list(found) == list(tool.CHANGES)
    for name, influence in found.items():
        shares = (influence.moved / influence.deviation).sqrt()
        assert influence.pixels == 2 * 16**2  # the decoder's grid, four times as fine as patches
        if name == 'exchanged among the classes':
            assert shares.max() < 1e-4
            assert influence.changed == 0
        else:
            assert shares.min() > 1e-3


def test_they_can_where_classes_are_weighted_by_presence(tool):
    found = influence_of(tool, class_fusion='presence')
    influence = found['exchanged among the classes']
    assert (influence.moved / influence.deviation).sqrt().min() > 1e-3
