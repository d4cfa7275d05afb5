"""Evaluate saved predictions, without the model.

    mmseg-escnet test CONFIG CHECKPOINT --out FOLDER
    python tools/analysis/evaluate_predictions.py FOLDER CONFIG

Prints the metrics that tools/test.py printed; --report writes its report of the classes. FOLDER may
also be the --out-dir of tools/infer.py, if that ran on the images and classes of the config's data
set. For predictions of a benchmark (--benchmarks with --out), name the benchmark and its folder:
FOLDER/A-847 CONFIG --benchmark A-847.
"""

from __future__ import annotations

import argparse

from mmseg_escnet.cli import add_cfg_options, load_config, make_parser, run_tool
from mmseg_escnet.settings import split_options


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('predictions', help='folder with predictions and names.json')
    parser.add_argument('config', help='config file that made them')
    parser.add_argument('--report', metavar='FOLDER', help='for classes.json and confusion.png')
    parser.add_argument('--benchmark', metavar='KEY', help='benchmark of the predictions')
    add_cfg_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Print the table of classes, then one metric per line."""
    args = parse_args(argv)
    of_model, _ = split_options(args.cfg_options)
    cfg = load_config(args.config, args.cfg_options if args.benchmark is None else of_model)

    from mmseg_escnet.evaluation.saved_predictions import evaluate_predictions
    from mmseg_escnet.evaluation.zero_shot_benchmarks import select_benchmarks
    from mmseg_escnet.evaluation.zero_shot_runs import benchmark_config

    if args.benchmark is not None:
        (benchmark,) = select_benchmarks([args.benchmark])
        cfg = benchmark_config(cfg, benchmark, args.cfg_options)
    for name, value in evaluate_predictions(cfg, args.predictions, args.report).items():
        print(f'{name} {value}')


if __name__ == '__main__':
    run_tool(main)
