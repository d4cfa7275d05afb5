"""The metafile: complete and true to the configs."""

import pytest
import yaml
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

(METAFILE,) = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
CONTENT = yaml.safe_load((ROOT / METAFILE).read_text())
ENTRIES = {entry['Name']: entry for entry in CONTENT['Models']}
# the paper's table, as far as its numbers are known
PAPER = {
    'escnet_vitl14_coco-stuff': [18.1, 27.0, 41.8, 65.6, 98.3, None],
    'escnet_vitb16_coco-stuff': [None, None, 35.6, 59.0, 97.3, 80.1],
}


def test_collection():
    (collection,) = CONTENT['Collections']
    assert collection['License'] == 'Apache-2.0'
    assert (ROOT / collection['README']).is_file()
    assert collection['Paper']['URL'] == 'https://arxiv.org/abs/2411.14723'
    assert {entry['In Collection'] for entry in ENTRIES.values()} == {collection['Name']}


@pytest.mark.parametrize('name', PAPER)
def test_results(name):
    """What the paper reports is marked as such, and nothing else claims to be measured."""
    metrics = [result['Metrics'] for result in ENTRIES[name]['Results']]
    assert [each['mIoU (paper)'] for each in metrics] == PAPER[name]
    assert [each['mIoU'] for each in metrics] == [None] * 6
    assert ENTRIES[name]['Metadata']['Inference time (ms/im)'] is None
    assert len({result['Dataset'] for result in ENTRIES[name]['Results']}) == 6


@pytest.mark.parametrize('name', PAPER)
def test_true_to_the_config(name):
    metadata = ENTRIES[name]['Metadata']
    cfg = Config.fromfile(ROOT / ENTRIES[name]['Config'])
    assert name in ENTRIES[name]['Config']
    assert metadata['Batch Size'] == cfg.train_dataloader.batch_size
    assert metadata['Iterations'] == cfg.train_cfg.max_iters
    assert metadata['FLOPs'] == pytest.approx(metadata['GMAC in five views'] / 5 * 2e9, rel=1e-4)
    if 'vitb16' in name:  # the larger one takes a while
        init_default_scope('mmseg')
        cfg.model.backbone.pretrained = cfg.model.neck.sam_pretrained = None
        parameters = MODELS.build(cfg.model).parameters()
        assert metadata['Parameters'] == sum(parameter.numel() for parameter in parameters)
