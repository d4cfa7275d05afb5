"""The canary: the committed miniature ESC-Net reaches what it did, and silent mistakes are seen."""

import json

import pytest
from conftest import load_tool

canary = load_tool('tools/toyworld/canary.py')

SHARE = 0.2  # of the scenes, on which mistakes are made


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('canary')
    canary.draw(folder)
    return folder


@pytest.fixture(scope='module')
def record() -> dict:
    return json.loads(canary.RECORD.read_text())


def test_it_sees_what_it_did(scenes, record):
    with canary.broken(None) as (cfg, model):
        found = canary.look(cfg, model, scenes)
    assert found.miou == pytest.approx(record['mIoU'], abs=canary.BAND)
    assert found.changed(canary.read_maps()) <= canary.CHANGED


def test_there_are_fifty_scenes():
    assert sum(count for count, *_ in canary.SETS.values()) == 50
    recorded = {key: maps.shape for key, maps in canary.read_maps().items()}
    assert recorded == {key: (count, size, size) for key, (count, size, _) in canary.SETS.items()}


@pytest.mark.parametrize('name', canary.BREAKAGES)
def test_a_silent_mistake_is_seen(name, scenes):
    """On few scenes, for time; docs/toyworld.md has what each does on all of them."""
    with canary.broken(name) as (cfg, model):
        found = canary.look(cfg, model, scenes, SHARE)
    assert found.changed(canary.read_maps()) > 2 * canary.CHANGED


def test_every_recorded_mistake_is_seen(record):
    """On all scenes, as recorded by canary.py --breakages --write."""
    assert set(record['broken']) == set(canary.BREAKAGES)
    for found in record['broken'].values():
        left_band = abs(found['mIoU'] - record['mIoU']) > canary.BAND
        assert left_band or found['changed'] > canary.CHANGED
