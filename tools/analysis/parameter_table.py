"""Which parameters of a config are trained, and at which learning rate.

    python tools/analysis/parameter_table.py configs/escnet/escnet_vitb16_coco-stuff.py

Builds the model, without its weights, and the optimizer as MMEngine builds it, and reads the table
off these two. Like parameters of the modules of one list share a line; ``--all`` gives each its
own.
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
    """A parameter, or several that are alike.

    Attributes:
        name: Its name, or their pattern.
        pattern: Its name with '*' for its number in each list of modules.
        shape: Its shape.
        trainable: Whether it takes a gradient.
        lr: Learning rate, None if the optimizer does not have it.
        weight_decay: Weight decay, None likewise.
    """

    name: str
    pattern: str
    shape: tuple[int, ...]
    trainable: bool
    lr: float | None
    weight_decay: float | None

    @property
    def kind(self) -> str:
        """What happens to it in training."""
        if not self.trainable:
            return 'frozen'
        return 'not in the optimizer' if self.lr is None else f'lr {self.lr:g}'


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--all', action='store_true', help='a line for every parameter')
    add_cfg_options(parser)
    return parser.parse_args(argv)


def read_rows(cfg) -> list[Row]:
    """Build the model and the optimizer of a config and read off every parameter.

    Args:
        cfg: A whole ``mmengine.Config``.

    Returns:
        One row per parameter, in the model's order.
    """
    import torch
    from mmengine.logging import MMLogger
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope(cfg.get('default_scope', 'mmseg'))
    # the optimizer's constructor logs several lines per parameter
    MMLogger.get_instance('parameter_table').setLevel('ERROR')
    with torch.device('meta'):  # shapes alone: no memory, no random numbers
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
    """Put parameters together that are alike but for their numbers in lists of modules.

    Returns:
        The rows, in order of appearance, with the number of parameters each stands for.
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
    """Total tensors and numbers, by what happens to them, as a table."""
    tensors, numbers = Counter(), Counter()
    for row in rows:
        for kind in (row.kind, 'in all'):
            tensors[kind] += 1
            numbers[kind] += prod(row.shape)
    kinds = sorted(tensors, key=lambda kind: (kind == 'in all', kind))
    cells = [(kind, tensors[kind], f'{numbers[kind]:,d}') for kind in kinds]
    return table(('training', 'tensors', 'numbers'), cells, align='lrr')


def main(argv: list[str] | None = None) -> None:
    """Print the table and the totals."""
    args = parse_args(argv)
    rows = read_rows(load_config(args.config, args.cfg_options))
    counted = dict.fromkeys(rows, 1) if args.all else group_rows(rows)
    print(f'{format_table(counted)}\n\n{format_totals(rows)}')


if __name__ == '__main__':
    run_tool(main)
