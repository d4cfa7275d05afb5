"""AtomicCheckpointHook in MMEngine's own runner, AtomicBackend, and the choice to resume from."""

import os
import shutil

import pytest
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmseg_escnet import ESCNetError
from mmseg_escnet.engine import AtomicCheckpointHook, choose_checkpoint, latest_whole_checkpoint


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, inputs, mode='tensor'):
        return dict(loss=(self.weight * inputs.sum()).sum())


class Watcher(AtomicCheckpointHook):
    """Records which checkpoints exist while one is being written."""

    def __init__(self, folder, **kwargs):
        super().__init__(**kwargs)
        self.folder, self.seen = folder, []

    def before_save_checkpoint(self, runner, checkpoint):
        self.seen.append(names(self.folder))


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.glob('*.pth'))


def train(work_dir, *, iterations=4, resume=False, hook='AtomicCheckpointHook', **options):
    checkpoint = dict(type=hook, by_epoch=False, interval=1, max_keep_ckpts=1) | options
    runner = Runner(
        model=Model(),
        work_dir=str(work_dir),
        train_dataloader=DataLoader([dict(inputs=torch.ones(2))] * 4),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=checkpoint),
        resume=resume,
        default_scope='mmseg',
        experiment_name=f'{work_dir.name}-{os.urandom(4).hex()}',
        log_level='ERROR',
    )
    if hook is Watcher:
        (hook,) = (h for h in runner.hooks if isinstance(h, Watcher))
    runner.train()
    return hook


def test_the_old_checkpoint_is_removed_after_the_new_one_is_written(tmp_path):
    hook = train(tmp_path, hook=Watcher, folder=tmp_path)
    # MMEngine's own hook leaves none in that moment
    assert hook.seen == [[], ['iter_1.pth'], ['iter_2.pth'], ['iter_3.pth']]
    assert names(tmp_path) == ['iter_4.pth']
    train(tmp_path, iterations=6, resume=True)
    assert names(tmp_path) == ['iter_6.pth'], 'the resumed run knows what it has to remove'


def test_partial_files_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / '.0123.part').write_bytes(b'half')
    (tmp_path / 'other.part').write_bytes(b'not ours')
    train(tmp_path, iterations=1)
    assert not (tmp_path / '.0123.part').exists()
    assert (tmp_path / 'other.part').exists()


@pytest.mark.parametrize('name', ['intervall', 'save_bst', 'max_keep_ckpt'])
def test_mistyped_settings_are_refused_before_the_first_checkpoint(name):
    with pytest.raises(ESCNetError, match=f'{name} is no setting of AtomicCheckpointHook: did you'):
        AtomicCheckpointHook(**{name: 1})


def test_another_backend(tmp_path):
    train(tmp_path, backend_args=dict(backend='local'), iterations=2)
    assert names(tmp_path) == ['iter_2.pth']


def test_writing_fails(tmp_path, monkeypatch):
    """The outdated checkpoint is kept, no partial file is left, and the error is clear."""
    train(tmp_path, iterations=1)

    def fail(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(ESCNetError, match=r'iter_2\.pth cannot be written \(No space'):
        train(tmp_path, iterations=2, resume=True)
    assert names(tmp_path) == ['iter_1.pth']
    assert not list(tmp_path.glob('.*.part'))


class TestLatestWholeCheckpoint:
    @pytest.fixture
    def run(self, tmp_path):
        train(tmp_path, max_keep_ckpts=9)
        return tmp_path

    def test_last_checkpoint_file(self, run):
        (run / 'last_checkpoint').write_text(str(run / 'iter_2.pth'))  # of a run begun anew
        assert latest_whole_checkpoint(run) == str(run / 'iter_2.pth')

    @pytest.mark.parametrize('note', [None, '', '/moved/away/iter_4.pth'])
    def test_newest_without_last_checkpoint_file(self, run, note):
        (run / 'last_checkpoint').unlink()
        if note is not None:
            (run / 'last_checkpoint').write_text(note)
        assert latest_whole_checkpoint(run) == str(run / 'iter_4.pth')

    @pytest.mark.parametrize('original', ['as it was', 'further', 'gone'])
    def test_a_copied_work_dir(self, run, original):
        """Its note still names the original, which may have been trained further."""
        copy = shutil.copytree(run, run.parent / f'{run.name} [copy]')
        assert (copy / 'last_checkpoint').read_text() == str(run / 'iter_4.pth')
        if original == 'further':
            train(run, iterations=6, resume=True)
        elif original == 'gone':
            shutil.rmtree(run)
        assert latest_whole_checkpoint(copy) == str(copy / 'iter_4.pth')
        (copy / 'iter_4.pth').write_bytes(b'')
        assert latest_whole_checkpoint(copy) == str(copy / 'iter_3.pth')

    def test_checkpoints_elsewhere(self, tmp_path):
        train(tmp_path / 'run', out_dir=str(tmp_path / 'disk'), max_keep_ckpts=9)
        (folder,) = (tmp_path / 'disk').iterdir()
        assert latest_whole_checkpoint(tmp_path / 'run') == str(folder / 'iter_4.pth')
        (folder / 'iter_4.pth').unlink()
        assert latest_whole_checkpoint(tmp_path / 'run') == str(folder / 'iter_3.pth')

    @pytest.mark.parametrize('damage', ['half', 'empty', 'missing', 'flipped'])
    def test_damaged(self, run, damage):
        newest = run / 'iter_4.pth'
        content = bytearray(newest.read_bytes())
        if damage == 'missing':
            newest.unlink()
        elif damage == 'flipped':
            if torch.__version__ < (2, 6):
                pytest.skip('this PyTorch does not load the file without trusting it')
            number = content.index(
                torch.load(newest, weights_only=True)['state_dict']['weight'].numpy().tobytes()
            )
            content[number] ^= 1
            newest.write_bytes(content)
        else:
            newest.write_bytes(content[: len(content) // 2] if damage == 'half' else b'')
        assert latest_whole_checkpoint(run) == str(run / 'iter_3.pth')

    @pytest.mark.parametrize('left', [['state_dict'], ['state_dict', 'meta']])
    def test_weights_alone(self, run, left):
        """Such as downloaded ones, without what MMEngine resumes from."""
        if torch.__version__ < (2, 6):
            pytest.skip('this PyTorch does not load the file without trusting it')
        content = torch.load(run / 'iter_3.pth', weights_only=True)
        content['meta'].pop('iter')
        torch.save({key: content[key] for key in left}, run / 'iter_4.pth')
        assert latest_whole_checkpoint(run) == str(run / 'iter_3.pth')
        for number in (1, 2, 3):
            (run / f'iter_{number}.pth').unlink()
        with pytest.raises(ESCNetError, match=r'iter_4\.pth has weights, but not the step of'):
            latest_whole_checkpoint(run)

    def test_what_this_pytorch_cannot_read_safely_is_left_to_mmengine(self, run, monkeypatch):
        """As before PyTorch 2.6."""
        monkeypatch.setattr('mmseg_escnet.preflight.can_restrict_checkpoints', lambda: False)
        monkeypatch.setattr('torch.load', lambda *_, **__: pytest.fail('it was read'))
        assert latest_whole_checkpoint(run) == str(run / 'iter_4.pth')

    def test_all_damaged(self, run):
        for path in run.glob('*.pth'):
            path.write_bytes(b'')
        with pytest.raises(ESCNetError, match=r'None of the checkpoints in .* can be read'):
            latest_whole_checkpoint(run)

    def test_none(self, tmp_path):
        assert latest_whole_checkpoint(tmp_path) is None


class TestChooseCheckpoint:
    """load_from is where a training starts, the work dir is where it resumes."""

    @pytest.fixture
    def other(self, tmp_path):
        """The end of another training, and a file of nothing but weights."""
        torch.save({'state_dict': {'weight': torch.zeros(3)}}, tmp_path / 'weights.pth')
        train(tmp_path / 'other', iterations=9)
        return tmp_path / 'other/iter_9.pth'

    def choose(self, work_dir, **settings):
        cfg = Config(dict(work_dir=str(work_dir), **settings))
        chosen = choose_checkpoint(cfg)
        assert chosen == cfg.get('load_from')
        return chosen, cfg.resume

    @pytest.mark.parametrize('name', ['other/iter_9.pth', 'weights.pth', 'run/iter_1.pth'])
    def test_resumed_from_the_work_dir(self, tmp_path, other, name):
        train(tmp_path / 'run', iterations=3, max_keep_ckpts=9)
        chosen = self.choose(tmp_path / 'run', resume=True, load_from=str(tmp_path / name))
        assert chosen == (str(tmp_path / 'run/iter_3.pth'), True)

    @pytest.mark.parametrize('name', ['other/iter_9.pth', 'weights.pth'])
    @pytest.mark.parametrize('resume', [True, False])
    def test_nothing_to_resume(self, tmp_path, other, name, resume):
        """As when a cluster starts a job with --resume from the beginning."""
        start = str(tmp_path / name)
        assert self.choose(tmp_path / 'run', resume=resume, load_from=start) == (start, False)
        assert self.choose(tmp_path / 'run', resume=resume) == (None, False)

    def test_without_resume_the_work_dir_is_not_looked_at(self, other, tmp_path):
        start = str(tmp_path / 'weights.pth')
        assert self.choose(other.parent, load_from=start) == (start, False)
        assert self.choose(other.parent) == (None, False)

    def test_load_from_is_read_only_if_it_is_used(self, other):
        missing = 'no_longer_here.pth'
        assert self.choose(other.parent, resume=True, load_from=missing) == (str(other), True)
        for resume in (True, False):
            with pytest.raises(ESCNetError, match=r'no_longer_here\.pth does not exist'):
                self.choose(other.parent / 'new', resume=resume, load_from=missing)
