"""The commands of the README and of every page exist, take the options given, and are tested."""

import functools
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from tool_processes import tool_of

README = (ROOT / 'README.md').read_text()
PAGES = [
    *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'data/README.md')),
    *sorted((ROOT / 'docs').rglob('*.md')),
]
# Which test runs the tool as the pages call it, at toy size: for each tool that has a command.
RUN_BY = {
    'tools/analysis/benchmark.py': 'tools/test_benchmark.py',
    'tools/analysis/compare_runs.py': 'tools/test_compare_runs.py',
    'tools/analysis/color_distances.py': 'test_colors.py',
    'tools/analysis/evaluate_predictions.py': 'tools/test_evaluation_tools.py',
    'tools/analysis/gpu_report.py': 'tools/test_gpu_report.py',
    'tools/analysis/import_graph.py': 'test_imports.py',
    'tools/analysis/parameter_table.py': 'tools/test_parameter_table.py',
    'tools/analysis/visualize_blocks.py': 'tools/test_visualize_blocks.py',
    'tools/check_dataset.py': 'tools/test_check_dataset.py',
    'tools/dataset_converters/ade20k_847.py': 'tools/test_ade20k_847_converter.py',
    'tools/dataset_converters/coco_json.py': 'tools/test_coco_json_converter.py',
    'tools/dataset_converters/coco_stuff164k.py': 'tools/test_coco_stuff164k_converter.py',
    'tools/dataset_converters/colours.py': 'tools/test_colours_converter.py',
    'tools/dataset_converters/pascal_context.py': 'tools/test_pascal_context_converter.py',
    'tools/dataset_converters/pascal_voc.py': 'tools/test_pascal_voc_converter.py',
    'tools/deployment/export.py': 'tools/test_deployment.py',
    'tools/deployment/onnx_example.py': 'tools/test_deployment.py',
    'tools/download_weights.py': 'tools/test_download_weights.py',
    'tools/infer.py': 'apis/test_inference_docs.py',
    'tools/model_converters/publish_model.py': 'tools/test_publish_model.py',
    'tools/test.py': 'tools/test_evaluation_tools.py',
    'tools/toyworld/canary.py': 'test_canary.py',
    'tools/toyworld/demo.py': 'tools/test_demo.py',
    'tools/toyworld/make_scenes.py': 'apis/test_inference_docs.py',
    'tools/toyworld/pretrain_clip.py': 'tools/test_pretraining.py',
    'tools/toyworld/study.py': 'tools/test_study.py',
    'tools/train.py': 'tools/test_train_and_test.py',
    'tools/web_demo.py': 'test_web.py',
}
PROGRAM = '(?:python|torchrun|mmseg-escnet)'
# which are not files of tools: test_command.py and test_check.py run them
OTHERS = ('mmseg-escnet --help', 'mmseg-escnet check', 'python -m mmseg_escnet')
MAKE_RUN_BY = {
    'demo': 'tools/test_demo.py',
    'docs': 'test_docs.py',
    'gpu': 'tools/test_gpu_report.py',
    'web': 'test_web.py',
}
MAKE_OF_DEVELOPERS = {'check', 'format', 'hooks', 'lint', 'test'}


def calls() -> list[list[str]]:
    """The file and the arguments of every command that calls a tool, in blocks and in lines."""
    found = []
    for page in PAGES:
        text = page.read_text().replace('\\\n', '')
        found += re.findall(rf'^ *({PROGRAM} .*)$', text, re.MULTILINE)
        found += re.findall(rf'`({PROGRAM} [^`]*)`', text)
    return [tool_of(line) for line in found if line.split('#')[0].strip() not in OTHERS]


COMMANDS = calls()
TARGETS = sorted(
    {
        target
        for page in PAGES
        for target in re.findall(r'(?:^|`)make (\w+)', page.read_text(), re.MULTILINE)
    }
)


def test_there_are_commands():
    assert len(COMMANDS) >= 25
    assert {words[0] for words in COMMANDS} <= set(RUN_BY), 'say here which test runs the tool'
    assert set(TARGETS) == {*MAKE_OF_DEVELOPERS, *MAKE_RUN_BY}


@pytest.mark.parametrize('tool', RUN_BY)
def test_somebody_runs_it(tool):
    test = (ROOT / 'tests' / RUN_BY[tool]).read_text()
    name = tool.removesuffix('.py').rsplit('/', 1)[-1]
    # the page of docs/inference.md is run as it stands
    assert name in test or 'docs/inference.md' in test


@pytest.mark.parametrize('target', TARGETS)
def test_make_targets(target):
    makefile = (ROOT / 'Makefile').read_text()
    assert re.search(rf'^{target}:', makefile, re.MULTILINE)
    if target in MAKE_RUN_BY:
        script = re.search(rf'^{target}:.*\n\t.*/(\w+)(\.py| build)', makefile, re.MULTILINE)[1]
        assert script in (ROOT / 'tests' / MAKE_RUN_BY[target]).read_text()


@functools.cache
def options_of(tool: str) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / tool, '--help'],
        capture_output=True,
        text=True,
        env={'PYTHONPATH': str(ROOT), 'COLUMNS': '200'},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize('words', COMMANDS, ids=' '.join)
def test_tools(words):
    tool, *arguments = words
    for argument in arguments:
        if argument.startswith('--'):
            assert argument in options_of(tool), f'{tool} has no {argument}'
        elif argument.startswith('configs/'):
            assert (ROOT / argument).is_file()
    assert (ROOT / tool).is_file()


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_the_pages_point_to(page):
    text = re.sub(r'^ *```.*?^ *```', '', page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r'\]\(([^)#]+)(?:#[^)]*)?\)', text):
        if not target.startswith('http'):
            assert (page.parent / target).exists(), target


def test_configs_that_the_readme_names():
    for target in re.findall(r"'(configs/[^']+\.py)'", README):
        assert (ROOT / target).is_file(), target


def test_the_tests_that_the_faults_name_are_there():
    named = re.findall(r'`(tests/[\w/]+\.py)(?:::(\w+))?`', (ROOT / 'docs/faults.md').read_text())
    assert len(named) > 25
    for file, name in named:
        content = (ROOT / file).read_text()
        assert not name or re.search(rf'^(def|class) {name}\b', content, re.MULTILINE), (file, name)
