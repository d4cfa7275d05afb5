"""Values of --cfg-options: what DictAction's users rely on, and texts that stay as they are."""

import argparse
import contextlib

import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import DictAction

from mmseg_escnet.cli import add_cfg_options
from mmseg_escnet.datasets import vocabulary_names
from mmseg_escnet.option_values import parse_value


def parse(*arguments: str, action: type | None = None) -> dict:
    parser = argparse.ArgumentParser()
    if action is None:
        add_cfg_options(parser)
    else:
        parser.add_argument('--cfg-options', nargs='+', action=action)
    return parser.parse_args(['--cfg-options', *arguments]).cfg_options


@pytest.mark.parametrize(
    'value',
    [
        *(
            '1',
            '-2',
            '0.5',
            '1e-3',
            'inf',
            'True',
            'false',
            'None',
            'none',
            '',
            'mIoU',
            'iter_4.pth',
        ),
        *('1,2,3', 'a,b', '1,', '[1,2]', '[1]', '[]', '()', '(1,2)', '(1,)', '(1)', '"[1,2]"'),
        *('[(1,2,3),[a,b],c]', '[[1,2],[3,(4,5)]]', '[[],[None,true]]', '[(a,b),(c,d)]', '(1,2),3'),
        *("['mIoU','mFscore']", '"openai"', "'abc'", 's3://bucket/a=b&c', '[cpu:gloo,cuda:nccl]'),
        *('1, 2,3 ', '[ 1 , (2,\t3)]', '( 384, 384 )'),
    ],
)
def test_what_users_of_dict_action_rely_on(value):
    value = f'a.b={value}'
    expected = parse(value.replace('\t', ' '), action=DictAction)
    found = parse(value)
    assert repr(found) == repr(expected), 'also the types'


@pytest.mark.parametrize(
    'text',
    [
        'A photo of a {} in the scene',
        'a photo of a {}, a type of food.',
        "a person's {}, isn't it",
        'a "{}" (blurry), seen from above',
        '/data/my photographs/2024 (copy)/',
        'work_dirs/a, b and c/iter_4.pth',
        '{} = {}',
        '{}',
        'a photo :(',
        '(left) and (right)',
        'two  spaces',
        'a) this, b) that',
        '路 面, 天 空',
        'C:\\new folder\\train',
    ],
)
def test_a_text_stays_as_it_is(text):
    assert parse(f'a={text}') == dict(a=text)
    if "'" not in text and '\\' not in text:
        assert parse(f"a=['{text}', {{}}]") == dict(a=[text, '{}'])
        assert parse(f"a='{text}'") == dict(a=text)


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        ('[wet road, sky,traffic light ]', ['wet road', 'sky', 'traffic light']),
        ("['door, open', door\\, shut]", ['door, open', 'door\\', 'shut']),
        ('["it\'s", b c]', ["it's", 'b c']),
        ("'007'", '007'),
        ('"1,2"', '1,2'),
        ("['1', 1, 'None', None, \"true\"]", ['1', 1, 'None', None, 'true']),
        ('[(red car, 1), [a b, [c d]]]', [('red car', 1), ['a b', ['c d']]]),
        ("{'mode': 'whole', 'size': (1, 2)}", dict(mode='whole', size=(1, 2))),
        (
            "[{'type': 'Load Image'}, {'a': [1, 'b c']}]",
            [dict(type='Load Image'), dict(a=[1, 'b c'])],
        ),
        ("''", ''),
        ('"[a b, 1]"', ['a b', 1]),
        (r"'it\'s'", "it's"),
    ],
)
def test_lists_quotes_and_dicts(value, expected):
    assert repr(parse_value(value)) == repr(expected)


def test_names_of_the_benchmarks():
    """As a script passes them: with their spaces, commas and brackets."""
    for benchmark in ('ade847', 'pc459', 'toyworld_all'):
        names = list(vocabulary_names(benchmark))
        assert parse_value(str(names)) == names
    templates = [template('{}') for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert parse_value(str(templates)) == templates
    assert [parse_value(template) for template in templates] == templates


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values, max_size=4) | st.lists(values, max_size=4).map(tuple),
    max_leaves=10,
)


@given(st.lists(LITERALS, max_size=4))
def test_what_python_prints_is_read_back(value):
    assert parse_value(repr(value)) == value


@given(st.text())
def test_any_value_is_read_or_refused(text):
    with contextlib.suppress(ValueError):  # of an open list
        parse_value(text)


@pytest.mark.parametrize(
    ('value', 'what'),
    [
        *((value, 'is missing') for value in ('[1,2', '(1,(2,3)', 'a,(b', '[(1,2]', '[a b, c')),
        *((value, 'closes nothing') for value in ('1,2]', 'a,b)', '[1,2]],3]', '(1,2),(3,4))')),
    ],
)
def test_an_open_list_is_one_sentence(value, what, capsys):
    with pytest.raises(SystemExit):
        parse(f'model.x={value}')
    (message,) = [line for line in capsys.readouterr().err.splitlines() if 'error:' in line]
    assert value in message
    assert f'{what}; if it is a text, give it quotes' in message


@pytest.mark.parametrize('option', ['max_iters', '=3', '=', 'a b'])
def test_what_is_no_option(option, capsys):
    with pytest.raises(SystemExit):
        parse(option)
    assert f'{option!r} is not key=value' in capsys.readouterr().err
