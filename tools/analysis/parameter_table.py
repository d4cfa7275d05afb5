"""List which parameters a config trains, and their learning rates.

    python tools/analysis/parameter_table.py configs/escnet/escnet_vitb16_coco-stuff.py

Builds the model, without weights, and MMEngine's optimizer for it. The summary is in millions of
parameters; below it, each tensor or group of them has a row. Parameters that differ only in
their index in a list of modules share a row; ``--all`` gives each its own.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, replace
from math import prod

from mmseg_escnet.cli import add_cfg_options, load_config, make_parser, run_tool
from mmseg_escnet.tables import table


@dataclass(frozen=True)
class Row:
    """A parameter, or several alike.

    Attributes:
        name: Name, or pattern of several.
        pattern: Name with '*' for the index in each list of modules.
        shape: Shape.
        trainable: Whether it requires a gradient.
        lr: Learning rate; None if it is not in the optimizer.
        weight_decay: Weight decay; None likewise.
    """

    name: str
    pattern: str
    shape: tuple[int, ...]
    trainable: bool
    lr: float | None
    weight_decay: float | None

    @property
    def kind(self) -> str:
        """Its role in training."""
        if not self.trainable:
            return 'frozen'
        return 'not in the optimizer' if self.lr is None else f'lr {self.lr:g}'


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--all', action='store_true', help='a row for every parameter')
    add_cfg_options(parser)
    return parser.parse_args(argv)


def read_rows(cfg) -> list[Row]:
    """One row per parameter of a config's model, in the model's order."""
    import torch
    from mmengine.logging import MMLogger
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope(cfg.get('default_scope', 'mmseg'))
    # the optimizer wrapper's constructor logs several lines per parameter
    MMLogger.get_instance('parameter_table').setLevel('ERROR')
    with torch.device('meta'):  # shapes only
        model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    group_of = {id(p): group for group in optimizer.param_groups for p in group['params']}
    rows = []
    for name, parameter in model.named_parameters():
        group = group_of.get(id(parameter)) if parameter.requires_grad else None
        rows.append(
            Row(
                name=name,
                pattern=_pattern(model, name),
                shape=tuple(parameter.shape),
                trainable=parameter.requires_grad,
                lr=None if group is None else group['lr'],
                weight_decay=None if group is None else group['weight_decay'],
            )
        )
    return rows


def _pattern(model, name: str) -> str:
    from torch.nn import ModuleList

    parts = name.split('.')
    owners = [model.get_submodule('.'.join(parts[:index])) for index in range(len(parts))]
    return '.'.join(
        '*' if isinstance(owner, ModuleList) else part
        for part, owner in zip(parts, owners, strict=True)
    )


def group_rows(rows: list[Row]) -> dict[Row, int]:
    """Merge parameters that differ only in their index in lists of modules.

    Returns:
        The rows in order of appearance, each with its number of parameters.
    """
    alike: dict[Row, list[Row]] = {}
    for row in rows:
        alike.setdefault(replace(row, name=row.pattern), []).append(row)
    # a row of one keeps its full name
    return {(key if len(own) > 1 else own[0]): len(own) for key, own in alike.items()}


def format_table(counted: dict[Row, int]) -> str:
    """The rows as a table."""
    cells = []
    for row, count in counted.items():
        name = row.name if count == 1 else f'{row.name} x{count}'
        shape = ' x '.join(map(str, row.shape)) or 'scalar'
        decay = '' if row.weight_decay is None else f'{row.weight_decay:g}'
        cells.append((name, shape, row.kind, decay))
    return table(('parameter', 'shape', 'training', 'weight decay'), cells, align='l')


def format_totals(rows: list[Row]) -> str:
    """Number of tensors and of parameters in millions, by role in training, as a table."""
    tensors, numbers = Counter(), Counter()
    for row in rows:
        for kind in (row.kind, 'in all'):
            tensors[kind] += 1
            numbers[kind] += prod(row.shape)
    kinds = sorted(tensors, key=lambda kind: (kind == 'in all', kind))
    cells = [(kind, tensors[kind], f'{numbers[kind] / 1e6:.3f}') for kind in kinds]
    return table(('training', 'tensors', 'parameters (M)'), cells, align='lrr')


def main(argv: list[str] | None = None) -> None:
    """Print the totals and the table."""
    args = parse_args(argv)
    rows = read_rows(load_config(args.config, args.cfg_options))
    counted = dict.fromkeys(rows, 1) if args.all else group_rows(rows)
    print(f'{format_totals(rows)}\n\n{format_table(counted)}')


if __name__ == '__main__':
    run_tool(main)
