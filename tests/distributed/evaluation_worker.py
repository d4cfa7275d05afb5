"""One of several processes that test the toy world's model: CONFIG --work-dir DIR [--launcher X]

For each number of images, the figures and predictions go into a folder of the work dir.
"""

import argparse
import json
from pathlib import Path

from mmengine.dist import get_rank

from mmseg_escnet.cli import add_config_arguments, load_run_config
from mmseg_escnet.engine import build_test_runner

COUNTS = (1, 2, 3, 5, 7)


def main() -> None:
    """Test on all numbers of images with one model."""
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    cfg = load_run_config(parser.parse_args())
    merged = dict(cfg.test_evaluator, prefix='merged', background_from=60, groups=None)
    cfg.test_evaluator = [dict(cfg.test_evaluator), merged]
    runner = build_test_runner(cfg)
    runner.call_hook('before_run')
    runner.load_or_resume()
    for count in COUNTS:
        folder = Path(cfg.work_dir) / str(count)
        cfg.test_dataloader.dataset.indices = count
        cfg.test_evaluator[0].output_dir = str(folder / 'predictions')
        runner._test_dataloader = cfg.test_dataloader
        runner._test_evaluator = cfg.test_evaluator
        runner._test_loop = runner.build_test_loop(cfg.test_cfg)
        figures = runner.test_loop.run()
        folder.mkdir(exist_ok=True)
        (folder / f'{get_rank()}.json').write_text(json.dumps(figures))


if __name__ == '__main__':
    main()
