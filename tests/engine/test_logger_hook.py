"""Test metrics are written by one process."""

import json
from types import SimpleNamespace

import pytest
from mmengine import dist
from mmengine.logging import MMLogger

from mmseg_escnet.engine import MainProcessLoggerHook


@pytest.mark.parametrize('rank', [0, 1])
def test_only_the_main_process_writes(tmp_path, monkeypatch, rank):
    monkeypatch.setattr(dist.utils, 'get_rank', lambda group=None: rank)
    hook = MainProcessLoggerHook()
    hook.json_log_path = 'figures.json'
    runner = SimpleNamespace(
        log_dir=str(tmp_path),
        logger=MMLogger.get_instance('test_logger_hook'),
        test_dataloader=[None],
        log_processor=SimpleNamespace(
            get_log_after_epoch=lambda *_, **__: ({'mIoU': 50.0}, 'mIoU: 50.0')
        ),
    )
    hook.after_test_epoch(runner, {'mIoU': 50.0})
    written = {p.name: json.loads(p.read_text()) for p in tmp_path.iterdir()}
    assert written == ({'figures.json': {'mIoU': 50.0}} if rank == 0 else {})
