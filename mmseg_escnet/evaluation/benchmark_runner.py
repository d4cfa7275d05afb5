"""Run zero-shot benchmarks one after the other, with one model, and keep what is finished."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from mmseg.engine import SegVisualizationHook
from mmseg.registry import HOOKS

from ..engine.hooks import VocabularyHook, unwrap
from ..errors import ESCNetError
from ..files import sha256, write_file
from .benchmark_tasks import Task, prepare
from .benchmarks import Benchmark, format_table, published_row
from .options import build_test_runner, save_predictions
from .saved_predictions import NAMES_FILE


class ResultsFile:
    """Figures of finished benchmarks in a JSON file, each with what it was measured with.

    Args:
        path: The file; it need not exist.

    Raises:
        ESCNetError: If it is there and is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read()  # a file that is none is found before anything is run

    def _read(self) -> dict:
        if not self.path.exists():
            return dict(benchmarks={})
        try:
            content = json.loads(self.path.read_text(encoding='utf-8'))
            content['benchmarks'].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ESCNetError(
                f'{self.path} is not a file of benchmark results ({error}): move it away.'
            ) from error
        return content

    def find(self, key: str, **same: str) -> dict | None:
        """The entry of a benchmark, None if there is none or it differs in one of ``same``."""
        entry = self._read()['benchmarks'].get(key)
        if entry is None or any(entry.get(name) != value for name, value in same.items()):
            return None
        return entry

    def store(self, key: str, entry: dict, **other) -> None:
        """Keep an entry from now on, whatever happens to this process.

        Args:
            key: Of the benchmark; an earlier entry of it is replaced.
            entry: Plain values.
            other: Goes beside the benchmarks.
        """
        content = self._read() | other  # another process may have added to it
        content['benchmarks'][key] = entry
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_file(self.path, json.dumps(content, indent=1).encode())


def run_benchmarks(
    tasks: Sequence[Task],
    *,
    checkpoint: str,
    results: ResultsFile,
    out: str | None = None,
    show_dir: str | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluate a checkpoint on benchmarks; those that are finished are not run again.

    Args:
        tasks: What :func:`prepare` returned.
        checkpoint: The checkpoint; it is loaded once, or not at all if nothing is left to do.
        results: Where finished ones are kept, and looked for.
        out: Folder for predictions, a folder of its own for each benchmark. One that is finished
            but whose predictions were not written there is run again.
        show_dir: Folder for painted images, likewise; drawing is switched on in the configs.

    Returns:
        Key -> figures of ``OpenVocabIoUMetric``, of all tasks.

    Raises:
        ESCNetError: If one cannot be evaluated; what was finished before is kept.
        KeyboardInterrupt: With the way to go on as message.
    """
    checkpoint_id = _identity(checkpoint)
    figures: dict[str, dict[str, float]] = {}
    left = []
    for task in tasks:
        key = task.benchmark.key
        wanted = dict(checkpoint_id=checkpoint_id, settings_id=task.settings)
        for name, folder in (('predictions', out), ('painted', show_dir)):
            if folder is not None:
                wanted[name] = os.path.abspath(Path(folder) / key)
        entry = results.find(key, **wanted)
        if entry is None or not _is_written(wanted):
            left.append((task, wanted))
        else:
            figures[key] = entry['metrics']
            say(f'{key}: finished before, see {results.path}')
    runner = None
    for task, wanted in left:
        key = task.benchmark.key
        try:
            if out is not None:
                save_predictions(task.cfg, task.dataset, wanted['predictions'], key)
            if runner is None:
                runner = _build_runner(task.cfg, checkpoint)
            if show_dir is not None:
                _draw_into(runner, task.cfg, wanted['painted'])
            say(f'{key}: {len(task.dataset)} images')
            start = time.monotonic()
            metrics = _test(runner, task)
        except ESCNetError as error:
            raise ESCNetError(f'{key}: {error}') from error
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f'{len(figures)} of {len(tasks)} benchmarks are finished and kept in '
                f'{results.path}; the same command goes on with {key}'
            ) from None
        figures[key] = {name: _plain(value) for name, value in metrics.items()}
        if is_main_process():
            entry = dict(
                metrics=figures[key],
                images=len(task.dataset),
                seconds=round(time.monotonic() - start, 1),
                checkpoint=checkpoint,
                **wanted,
                protocol=_protocol(task.cfg),
            )
            results.store(key, entry, published=_published(task.cfg))
    if runner is not None:
        runner.call_hook('after_run')
    return {task.benchmark.key: figures[task.benchmark.key] for task in tasks}


def _is_written(wanted: Mapping[str, str]) -> bool:
    files = [Path(wanted['predictions']) / NAMES_FILE] if 'predictions' in wanted else []
    folders = [Path(wanted['painted'])] if 'painted' in wanted else []
    return all(path.exists() for path in files + folders)


def _identity(checkpoint: str) -> str:
    return sha256(checkpoint) if os.path.isfile(checkpoint) else checkpoint  # an address


def _build_runner(cfg: Config, checkpoint: str) -> Runner:
    types = [hook['type'] for hook in cfg.get('custom_hooks') or ()]
    hooks = [HOOKS.get(name) if isinstance(name, str) else name for name in types]
    if not any(hook is not None and issubclass(hook, VocabularyHook) for hook in hooks):
        raise ESCNetError(
            'The config has no VocabularyHook, so that the model would keep the words of one '
            "benchmark for the next: add dict(type='VocabularyHook') to custom_hooks."
        )
    cfg.load_from = checkpoint
    runner = build_test_runner(cfg)
    # as in Runner.test(), but once: hooks such as EMAHook make what they need here
    runner.call_hook('before_run')
    runner.load_or_resume()
    return runner


def _test(runner: Runner, task: Task) -> dict[str, float]:
    """Run MMEngine's test loop on another data set than the runner was built for."""
    runner._test_dataloader = task.cfg.test_dataloader
    runner._test_evaluator = task.cfg.test_evaluator
    runner._test_loop = runner.build_test_loop(task.cfg.test_cfg)
    metrics = runner.test_loop.run()
    words = tuple(name.strip() for name in task.dataset.metainfo['classes'])
    if unwrap(runner.model).vocabulary.names != words:
        raise ESCNetError(
            'The model did not look for the words of this benchmark but for '
            f'{unwrap(runner.model).vocabulary.names[:3]}...: a hook of the config sets others, so '
            'take it out.'
        )
    return metrics


def _draw_into(runner: Runner, cfg: Config, folder: str) -> None:
    visualizer = dict(cfg.visualizer, name=f'visualizer into {folder}', save_dir=folder)
    runner.visualizer = runner.build_visualizer(visualizer)
    for hook in runner.hooks:
        if isinstance(hook, SegVisualizationHook):
            hook._visualizer = runner.visualizer


def _protocol(cfg: Config) -> dict:
    model = cfg.model.get('module', cfg.model)
    return dict(
        test_cfg=(model.get('test_cfg') or {}),
        pipeline=[dict(step) for step in cfg.test_dataloader.dataset.pipeline],
        augmented='module' in cfg.model,
    )


def _published(cfg: Config) -> dict:
    model_name = backbone_name(cfg)
    backbone, rows = published_row(model_name)
    return dict(note="the papers' own figures", backbone=backbone, **rows)


def backbone_name(cfg: Config) -> str | None:
    """open_clip's name of the CLIP model in a config."""
    return cfg.model.get('module', cfg.model).backbone.get('model_name')


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def say(text: str) -> None:
    """Print on the main process, also before the processes have met."""
    if is_main_process() and os.environ.get('RANK', '0') == '0':
        print(text, flush=True)


def evaluate_benchmarks(
    cfg: Config,
    benchmarks: Sequence[Benchmark],
    *,
    checkpoint: str,
    overrides: Mapping[str, object] | None = None,
    tta: bool = False,
    out: str | None = None,
    show_dir: str | None = None,
) -> None:
    """What ``tools/test.py --benchmarks`` does: check all, run those whose data is there, tabulate.

    Args:
        cfg: The model's config.
        benchmarks: Which.
        checkpoint: The checkpoint.
        overrides: See :func:`benchmark_config`.
        tta: Whether to use test-time augmentation.
        out: See :func:`run_benchmarks`.
        show_dir: See :func:`run_benchmarks`.

    Raises:
        ESCNetError: If the data of one is wrong, or that of all is absent.
    """
    tasks, absent = [], {}
    for benchmark in benchmarks:
        prepared = prepare(cfg, benchmark, overrides=overrides, tta=tta)
        if isinstance(prepared, Task):
            tasks.append(prepared)
        else:
            absent[benchmark.key] = prepared
    for key, sentence in absent.items():
        say(f'{key}: skipped. {sentence}')
    if not tasks:
        raise ESCNetError(
            f'The data of {", ".join(absent)} is not there: data/README.md says how to make it.'
        )
    name = Path(checkpoint).stem + ('_tta' if tta else '')
    results = ResultsFile(Path(cfg.work_dir) / f'benchmarks_{name}.json')
    figures = run_benchmarks(
        tasks, checkpoint=checkpoint, results=results, out=out, show_dir=show_dir
    )
    say(f'\n{format_table(figures, backbone_name(cfg))}\n\nkept in {results.path}')
