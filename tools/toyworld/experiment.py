"""A training of ESC-Net on the toy world, as the demo and the study do it."""

from __future__ import annotations

from pathlib import Path

from mmseg_escnet.errors import ESCNetError


def make_scenes_for(root: Path, num_scenes: tuple[int, int]) -> None:
    """Write the scenes that are missing.

    Args:
        root: Folder of the data set.
        num_scenes: For training and for validation.
    """
    import make_scenes

    train, val = map(str, num_scenes)
    if make_scenes.main(['--out', str(root), '--train', train, '--val', val]):
        raise ESCNetError(f'Not all scenes could be written to {root}: see above.')


def use_scenes(cfg, root: Path) -> None:
    """Point a config to scenes; there is no validation during training."""
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    for phase in ('train', 'test'):
        cfg[f'{phase}_dataloader'].dataset.data_root = f'{root}/'


def shorten(cfg, iterations: int) -> None:
    """Train for another number of iterations; the rate falls to zero at the last."""
    cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = iterations
    warm_up, decay = cfg.param_scheduler
    warm_up.end = decay.begin = min(warm_up.end, iterations // 2)
    if warm_up.end < 2:  # too few for a warm-up
        cfg.param_scheduler, decay.begin = [decay], 0
    decay.end, decay.T_max = iterations, max(1, iterations - decay.begin)


def train(cfg, checkpoint: str | None = None):
    """Build the model and train it, or load a trained one.

    Returns:
        The model, that of CLIP's raw read-out as it was before, and what was logged.
    """
    from mmengine.runner import Runner, load_checkpoint
    from mmseg.registry import MODELS

    untrained = MODELS.build(cfg.model)
    untrained.init_weights()
    if checkpoint is not None:
        model = MODELS.build(cfg.model)
        load_checkpoint(model, checkpoint, map_location='cpu')
        return model, untrained, {}
    runner = Runner.from_cfg(cfg)
    runner.train()
    logged = {
        title: runner.message_hub.get_scalar(key).data[0].tolist()
        for key, title in (('train/loss', 'loss'), ('train/decode.acc_seg', 'pixels right (%)'))
    }
    return runner.model, untrained, logged


def save_weights(model, path: Path) -> None:
    """Write a trained model's weights in half precision, rows of tokens that are zero left out.

    With the words it was last used for, where MMSegmentation's ``init_model`` looks for them.
    """
    import io

    import torch

    from mmseg_escnet.files import write_file
    from mmseg_escnet.models.sparse_weights import sparse_rows

    state = {}
    for key, value in model.state_dict().items():
        value = value.detach().cpu()
        value = value.half() if value.is_floating_point() else value.clone()
        state[key] = sparse_rows(value) if key.endswith('token_embedding.weight') else value
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    meta = dict(dataset_meta=model.dataset_meta)
    torch.save(dict(state_dict=state, meta=meta), buffer)
    write_file(path, buffer.getbuffer())
