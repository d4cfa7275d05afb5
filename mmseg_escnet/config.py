"""Find and read configs, and the parts of them that inference uses."""

from __future__ import annotations

import ast
import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .consistency import use_no_workers
from .errors import ESCNetError, first_few
from .settings import check_names, check_options

if TYPE_CHECKING:
    from mmengine.config import Config, ConfigDict

INFERENCE_SUFFIX = '.safetensors'


def config_folder() -> Path:
    """Folder of the configs, in the repository or in the installed wheel.

    Raises:
        ESCNetError: If neither exists.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / '.mim' / 'configs', package.parent / 'configs'):
        if (folder / '_base_').is_dir():
            return folder
    raise ESCNetError(
        f'The configs of mmseg_escnet are missing in {package / ".mim"}: install the package again.'
    )


def check_config_path(path: str | os.PathLike) -> None:
    """Check that a config exists, before slow imports.

    Raises:
        ESCNetError: If there is no such file.
    """
    if not Path(path).is_file():
        raise ESCNetError(
            f'The config {path} does not exist: give a path such as '
            'configs/escnet/escnet_vitb16_coco-stuff.py.'
        )


def check_weights_path(path: str | os.PathLike, what: str = 'checkpoint') -> None:
    """Check that weights are a file on this machine, before slow imports.

    Raises:
        ESCNetError: If there is no such file, or for an address, from which MMEngine would run
            whatever is in the file.
    """
    if is_url(path):
        raise ESCNetError(
            f'The {what} {path} is an address, and weights are only read from files: download it '
            f'(`wget {path}`), compare its SHA-256 with the published one, and give the file.'
        )
    if not Path(path).is_file():
        raise ESCNetError(f'The {what} {path} does not exist: check the path.')


def is_url(path: object) -> bool:
    """Whether it is the address of a file on the network."""
    return str(path).startswith(('http://', 'https://'))


def is_inference_file(path: object) -> bool:
    """Whether a path or URL has the suffix of an inference file, which includes its config."""
    if not isinstance(path, (str, os.PathLike)):
        return False
    return Path(str(path).partition('?')[0]).suffix.lower() == INFERENCE_SUFFIX


def read_config(
    config: str | os.PathLike | Config, options: Mapping[str, object] | None = None
) -> Config:
    """Read a config, or copy one.

    Args:
        config: A path, or a config, which is not changed.
        options: Settings to override, nested keys with dots.

    Raises:
        ESCNetError: If there is no such file, or for a setting that nothing reads.
    """
    from mmengine.config import Config

    if isinstance(config, Config):
        cfg = config.copy()
    else:
        check_config_path(config)
        cfg = Config.fromfile(config)
    if options:
        check_options(cfg, options)
        try:
            cfg.merge_from_dict(dict(options))
        except (TypeError, KeyError, IndexError) as error:
            reason = str(error.args[0])[:150]
            raise ESCNetError(
                f'The settings {first_few(options)} cannot be set ({reason}): check their names.'
            ) from error
    check_names(cfg)
    return cfg


def parse_config(text: str) -> Config:
    """Read a config as MMEngine writes it into checkpoints, without executing anything.

    Raises:
        ESCNetError: If it has more than plain values.
    """
    from mmengine.config import Config

    class Dicts(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            """dict(a=1) or dict({'a': 1}) -> {'a': 1}."""
            self.generic_visit(node)
            if ast.unparse(node.func) != 'dict' or (node.args and node.keywords):
                return node  # which is no plain value
            if node.args:
                return node.args[0]
            keys = [ast.Constant(keyword.arg) for keyword in node.keywords]
            return ast.Dict(keys, [keyword.value for keyword in node.keywords])

    try:
        lines = Dicts().visit(ast.parse(text)).body
        return Config({line.targets[0].id: ast.literal_eval(line.value) for line in lines})
    except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ESCNetError(
            f'The config in the checkpoint cannot be read ({error}): give the file it is from.'
        ) from error


def pipeline_steps(cfg: Config) -> list[dict]:
    """The transforms of a config's test data set, as configs.

    Raises:
        ESCNetError: If there is no test pipeline.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'pipeline' not in dataset and ('dataset' in dataset or dataset.get('datasets')):
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    steps = dataset.get('pipeline') or cfg.get('test_pipeline')
    if steps is None:
        raise ESCNetError(
            'The config has neither test_dataloader.dataset.pipeline nor test_pipeline, which '
            'define how an image is prepared: add one of them.'
        )
    return steps


def run_config(
    path: str | os.PathLike,
    options: Mapping[str, object] | None = None,
    work_dir: str | None = None,
    launcher: str = 'none',
) -> Config:
    """Read a config for MMEngine's runner, with ``work_dir`` and ``launcher`` set.

    Args:
        path: The config file.
        options: Settings to override, nested keys with dots.
        work_dir: Folder of logs and checkpoints; by default the config's, or work_dirs/<its name>.
        launcher: Of processes: 'none', 'pytorch', 'slurm' or 'mpi'.

    Raises:
        ESCNetError: If there is no such file.
    """
    cfg = read_config(path, options)
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(path).stem)
    cfg.launcher = launcher
    use_no_workers(cfg)
    return cfg


def forget_pretrained(model: ConfigDict) -> None:
    """Remove pretrained weights from a model's config, to load all weights from a checkpoint."""
    model.backbone.pretrained = None
    if 'neck' in model:  # CLIP alone has none
        model.neck.sam_pretrained = None


def clip_alone(model: Mapping) -> dict:
    """The config of CLIP alone, with the backbone, the words and the protocol of a model.

    Args:
        model: ``model`` of a config of ESC-Net.
    """
    parts = ('data_preprocessor', 'backbone', 'text_encoder', 'test_cfg')
    found = {key: copy.deepcopy(model[key]) for key in parts if key in model}
    (found.get('test_cfg') or {}).pop('shortlist', None)
    return dict(found, type='CLIPReadout')


def check_needs_no_checkpoint(cfg: Config) -> None:
    """Refuse to do without a checkpoint, unless the model is CLIP alone with CLIP's weights.

    Raises:
        ESCNetError: If it is another model, or one with random weights.
    """
    model = cfg.model.get('module', cfg.model)  # inside test-time augmentation
    if model.type != 'CLIPReadout':
        raise ESCNetError(
            f'{model.type} needs a checkpoint, or an inference file (*{INFERENCE_SUFFIX}), '
            'which has config and weights in it: give one. What can be used without training is '
            'CLIP alone, configs/clip.'
        )
    if model.backbone.get('pretrained') is None:
        raise ESCNetError(
            'model.backbone.pretrained is None, so that CLIP would be random: set it to a tag such '
            "as 'openai', or to a local file."
        )
