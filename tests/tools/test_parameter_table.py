"""tools/analysis/parameter_table.py, and what it says about the training recipe."""

import pytest
import torch
from conftest import load_tool
from mmengine.config import Config
from mmseg.registry import MODELS

from mmseg_escnet import ESCNetError

CONFIG = 'configs/escnet/escnet_vitb16_coco-stuff.py'
SAM_ATTENTION = ('self_attn', 'cross_attn_token_to_image', 'cross_attn_image_to_token')


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/analysis/parameter_table.py')


def run(tool, root, *options):
    args = tool.parse_args([str(root / CONFIG), *options])
    return tool.read_rows(tool.load_config(args.config, args.cfg_options))


@pytest.fixture(scope='module')
def rows(tool, root):
    return run(tool, root)


@pytest.fixture(scope='module')
def without_decay(root):
    """Parameters of norms, of whatever library, and tables of relative positions."""
    cfg = Config.fromfile(root / CONFIG)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    names = set()
    for name, module in model.named_modules():
        for key, _ in module.named_parameters(recurse=False):
            if 'Norm' in type(module).__name__ or key == 'relative_position_bias_table':
                names.add(f'{name}.{key}')
    return names


def test_recipe(rows, without_decay):
    """Attention of CLIP and SAM at 2e-6, what is new at 2e-4, the rest of both frozen (paper).

    No weight decay on norms and relative position biases (recipe).
    """
    counts, spared = dict.fromkeys(['clip', 'sam', 'frozen', 'new'], 0), 0
    for row in rows:
        in_clip = row.name.startswith('backbone.')
        in_sam = '.sam_block.layers.' in row.name or row.name.startswith('neck.prompt_encoder.')
        if in_clip and '.attn.' in row.name:
            expected, kind = 2e-6, 'clip'
        elif in_sam and any(f'.{part}.' in row.name for part in SAM_ATTENTION):
            expected, kind = 2e-6, 'sam'
        elif in_clip or in_sam:
            expected, kind = None, 'frozen'
        else:
            expected, kind = 2e-4, 'new'
        assert row.trainable == (expected is not None), row.name
        assert row.lr == (None if expected is None else pytest.approx(expected)), row.name
        decay = 0 if row.name in without_decay else 1e-4
        assert row.weight_decay == (None if expected is None else decay), row.name
        spared += row.weight_decay == 0
        counts[kind] += 1
    # 4 tensors in each of 12 layers of two towers; 8 in 3 attentions of one layer in 4 blocks
    assert counts['clip'] == 4 * 12 * 2
    assert counts['sam'] == 8 * 3 * 4
    # norms of 4 blocks: of SAM's image tokens, two of the Swin block, two of the text guidance;
    # its table; the decoder's two
    assert spared == 4 * (2 * 5 + 1) + 2 * 2
    assert counts['frozen'] > 100
    assert counts['new'] > 100


def test_every_parameter_has_a_row(rows, tool):
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    grouped = tool.group_rows(rows)
    assert sum(grouped.values()) == len(rows)
    assert len(grouped) < len(rows) / 3
    # the groups are exactly those of equal pattern, shape and treatment
    for row, count in grouped.items():
        members = [
            r
            for r in rows
            if (r.pattern, r.shape, r.kind, r.weight_decay)
            == (row.pattern, row.shape, row.kind, row.weight_decay)
        ]
        assert len(members) == count
        assert row.name == (row.pattern if count > 1 else members[0].name)


def cells(text: str) -> list[list[str]]:
    """The rows of tables."""
    lines = (line.split('|')[1:-1] for line in text.splitlines() if line.startswith('|'))
    return [[cell.strip() for cell in line] for line in lines]


def test_output(tool, root, rows, capsys):
    tool.main([str(root / CONFIG)])
    lines = cells(capsys.readouterr().out)
    attention = 'backbone.clip.visual.transformer.resblocks.*.attn.in_proj_weight x12'
    assert [attention, '2304 x 768', 'lr 2e-06', '0.0001'] in lines
    assert ['backbone.clip.logit_scale', 'scalar', 'frozen', ''] in lines
    assert lines[0] == ['training', 'tensors', 'parameters (M)'], 'the summary is above'
    totals = lines[1 : lines.index(['parameter', 'shape', 'training', 'weight decay'])]
    assert [kind for kind, *_ in totals] == ['frozen', 'lr 0.0002', 'lr 2e-06', 'in all']
    numbers = {kind: list(map(float, of_kind)) for kind, *of_kind in totals}
    for place in (0, 1):
        parts = sum(numbers[kind][place] for kind in list(numbers)[:3])
        assert parts == pytest.approx(numbers['in all'][place], abs=0.002)
    assert numbers['in all'][0] == len(rows)
    # CLIP ViT-B/16 has 149.6 M parameters, and its 24 attentions so many of them
    visual, text = 12 * 4 * (768**2 + 768), 12 * 4 * (512**2 + 512)
    assert numbers['lr 2e-06'][1] > (visual + text) / 1e6
    assert numbers['in all'][1] > 149.6


def test_all(tool, root, rows, capsys):
    tool.main([str(root / CONFIG), '--all'])
    lines = cells(capsys.readouterr().out)
    assert [line[0] for line in lines[-len(rows) :]] == [row.name for row in rows]


def test_it_shows_what_the_config_does(tool, root):
    """Not what the recipe wants."""
    changed = run(
        tool,
        root,
        '--cfg-options',
        'optim_wrapper.optimizer.lr=0.1',
        'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult=0.5',
        'model.backbone.trainable=all',
        'model.neck.sam_block.trainable=none',
        'model.neck.num_blocks=1',
    )
    by_name = {row.name: row for row in changed}
    assert by_name['backbone.clip.visual.transformer.resblocks.3.mlp.c_fc.weight'].lr == 0.05
    assert by_name['neck.blocks.0.sam_block.fuse.weight'].lr == 0.1
    assert not any(row.trainable for row in changed if '.sam_block.layers.' in row.name)
    assert not any(row.name.startswith('neck.blocks.1.') for row in changed)


def test_frozen_parameters_that_the_optimizer_holds_are_frozen(tool, root):
    """MMEngine gives it all parameters where there are no rules by name."""
    changed = run(tool, root, '--cfg-options', 'optim_wrapper.paramwise_cfg=None')
    assert {row.lr for row in changed if row.trainable} == {2e-4}
    frozen = [row for row in changed if not row.trainable]
    assert len(frozen) > 100
    assert {row.lr for row in frozen} == {None}


def test_trainable_parameter_that_the_optimizer_lacks_is_told(tool):
    row = tool.Row(name='a', pattern='a', shape=(2, 3), trainable=True, lr=None, weight_decay=None)
    assert cells(tool.format_table({row: 1}))[1] == ['a', '2 x 3', 'not in the optimizer', '']
    assert cells(tool.format_totals([row]))[1] == ['not in the optimizer', '1', '0.000']


def test_missing_config(tool):
    with pytest.raises(ESCNetError, match=r'nowhere\.py does not exist'):
        tool.main(['nowhere.py'])
