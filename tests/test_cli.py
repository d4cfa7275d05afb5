"""What the command-line tools share."""

import argparse

import pytest
import torch

from mmseg_escnet import ESCNetError, cli, config
from mmseg_escnet.cli import add_config_arguments, load_run_config, run_tool
from mmseg_escnet.config import config_folder


def status_of(main):
    with pytest.raises(SystemExit) as caught:
        run_tool(main)
    return caught.value.code


def test_exit_statuses(capsys):
    def bad_input():
        raise ESCNetError('The file a.png does not exist: check the path.')

    def interrupted():
        raise KeyboardInterrupt

    assert status_of(lambda: None) == 0
    assert status_of(lambda: 3) == 3
    assert status_of(bad_input) == 2
    assert capsys.readouterr().err == 'error: The file a.png does not exist: check the path.\n'
    assert status_of(interrupted) == 130
    assert capsys.readouterr().err == 'interrupted\n'


def test_how_to_go_on_after_an_interruption(capsys):
    def interrupted(*message):
        raise KeyboardInterrupt(*message)

    for message, expected in (((), 'in general'), (('in this case',), 'in this case')):
        with pytest.raises(SystemExit):
            run_tool(lambda message=message: interrupted(*message), interrupted='in general')
        assert capsys.readouterr().err == f'interrupted: {expected}\n'


def test_a_bug_keeps_its_traceback():
    def bug():
        raise ValueError('a bug')

    with pytest.raises(ValueError, match='a bug'):
        run_tool(bug)


def parse(*argv):
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    return parser.parse_args(list(map(str, argv)))


def test_missing_config_is_one_sentence(tmp_path):
    for path in (tmp_path / 'missing.py', tmp_path):
        with pytest.raises(ESCNetError, match='does not exist') as caught:
            load_run_config(parse(path))
        assert str(path) in str(caught.value)


def test_overrides(tmp_path):
    config = tmp_path / 'small.py'
    config.write_text("model = dict(depth=2, name='a')\n")
    cfg = load_run_config(parse(config))
    assert (cfg.work_dir, cfg.launcher) == ('work_dirs/small', 'none')
    arguments = ['--cfg-options', 'model.depth=3', 'model.sizes=[1,2]']
    cfg = load_run_config(parse(config, '--work-dir', 'out', '--launcher', 'pytorch', *arguments))
    assert cfg.model == dict(depth=3, name='a', sizes=[1, 2])
    assert (cfg.work_dir, cfg.launcher) == ('out', 'pytorch')


def test_work_dir_of_the_config_is_kept(tmp_path):
    config = tmp_path / 'small.py'
    config.write_text("work_dir = 'mine'\n")
    assert load_run_config(parse(config)).work_dir == 'mine'


def test_a_work_dir_that_cannot_be_written(tmp_path):
    config, file = tmp_path / 'small.py', tmp_path / 'runs'
    for path in (config, file):
        path.write_text('')
    for work_dir in (file, file / 'first'):
        with pytest.raises(ESCNetError, match=rf'written to {work_dir}, because {file} is not a f'):
            load_run_config(parse(config, '--work-dir', work_dir))


def test_configs_of_the_work_tree_and_of_a_wheel(tmp_path, monkeypatch):
    """A wheel carries them in .mim; what lies beside the installed package is another's."""
    assert (config_folder() / 'escnet/escnet_vitb16_coco-stuff.py').is_file()
    package = tmp_path / 'site-packages/mmseg_escnet'
    monkeypatch.setattr(config, '__file__', str(package / 'config.py'))
    with pytest.raises(ESCNetError, match=r'The configs .* are missing in .*\.mim'):
        config_folder()
    (tmp_path / 'site-packages/configs/_base_').mkdir(parents=True)
    (package / '.mim/configs/_base_').mkdir(parents=True)
    assert config_folder() == package / '.mim/configs'


@pytest.mark.parametrize('reported', [0, 3, None])
def test_a_dead_worker_whose_pipe_breaks_first(monkeypatch, capsys, reported):
    """The system may report the death a little later; a connection of anything else is not ours."""
    calls = []

    def look():
        if len(calls) == reported:
            raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed.')
        calls.append(1)

    def main():
        raise ConnectionResetError(104, 'Connection reset by peer')

    monkeypatch.setattr(torch._C, '_error_if_any_worker_fails', look)
    monkeypatch.setattr(cli.time, 'sleep', lambda seconds: None)
    if reported is None:
        with pytest.raises(ConnectionResetError):
            run_tool(main)
    else:
        assert status_of(main) == 1
        assert 'error: DataLoader worker (pid 7) is killed' in capsys.readouterr().err
