"""What the documentation names exists: links, paths, tools, options; both READMEs agree."""

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from cmt_bias.bias.scale import BiasScale

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md'), ROOT / 'docs/study/README.md'])
ENGLISH, CHINESE = (ROOT / name for name in ('README.md', 'README.zh-CN.md'))
# Made by a command or brought by the user.
MADE = ('data/', 'work_dirs/', 'ckpts/', 'my_project', 'my_cmt_config')


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request) -> Path:
    return request.param


def links_of(page: Path) -> list[str]:
    """Targets of links and pictures outside code."""
    text = re.sub(r'```.*?```|`[^`]*`', '', page.read_text(), flags=re.DOTALL)
    return re.findall(r'\]\(([^)\s]+)\)', text)


def anchors_of(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.*)$', page.read_text(), flags=re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def test_relative_links_lead_somewhere(page):
    for link in links_of(page):
        if '://' in link:
            continue
        target, _, anchor = link.partition('#')
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), link
        assert not anchor or anchor in anchors_of(found), link


def test_every_page_is_reached_from_the_readme():
    reached, new = set(), {ENGLISH}
    while new:
        reached |= new
        links = {
            (page.parent / link.partition('#')[0]).resolve()
            for page in new
            for link in links_of(page)
            if '://' not in link and link.partition('#')[0].endswith('.md')
        }
        new = links - reached
    assert set(PAGES) <= reached


def commands_of(page: Path) -> list[str]:
    """Lines of code blocks that call something, joined where they go on."""
    blocks = re.findall(
        r'^ *```(?:bash)?\n(.*?)^ *```', page.read_text(), re.DOTALL | re.MULTILINE
    )
    blocks += re.findall(r'(?:^    [^\n]+\n)+', page.read_text(), re.MULTILINE)
    lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
    commands = [line.split(' #')[0].strip() for line in lines]
    commands += re.findall(r'`((?:\S*python |bash |make |tools/)[^`]*)`', page.read_text())
    return [command for command in commands if re.match(r'\S*python|bash|make|tools/', command)]


def test_commands_name_tools_and_targets_that_exist(page):
    targets = set(re.findall(r'^([a-z]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    for command in commands_of(page):
        if command.startswith('make '):
            assert set(re.findall(r'^make ([a-z]+)', command)) <= targets, command
        for path in re.findall(r'\b(?:tools|examples|configs|tests)/[\w./-]+\w', command):
            assert (ROOT / path).exists(), command


def options_of(tool: str) -> set[str]:
    """Options that a tool's source, or the one that tools share, adds to its parser."""
    sources = (ROOT / tool, ROOT / 'projects/cmt_bias/runs/run_options.py')
    return {
        option
        for source in sources
        for option in re.findall(r"'(--?[a-z][\w-]*)'", source.read_text())
    }


def help_of(tool: str) -> str:
    """What a tool says of its options, for those that are made from other names."""
    command = [sys.executable, str(ROOT / tool), '--help']
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_options_of_the_tools_exist():
    wanted: dict[str, set[str]] = {}
    for page in PAGES:
        for command in commands_of(page):
            for tool, rest in re.findall(r'(tools/\w+\.py)((?: (?!tools/)\S+)*)', command):
                options = re.findall(r'(?<=\s)--?[a-z][\w-]*', rest)
                wanted.setdefault(tool, set()).update(options)
    assert len(wanted) > 8
    for tool, options in wanted.items():
        unknown = options - options_of(tool)
        assert not unknown or unknown <= set(help_of(tool).replace(',', ' ').split()), tool


def test_paths_in_code_font_exist(page):
    if page.name == 'CHANGELOG.md':
        return
    for path in re.findall(r'`([\w./-]+/[\w./-]*)`', page.read_text()):
        if '//' in path or path.startswith(('~', '.venv', '/', *MADE)):
            continue
        if path.startswith(('tools/', 'configs/', 'docs/', 'projects/', 'tests/', 'examples/')):
            assert (ROOT / path).exists(), path


def sections(page: Path) -> list[str]:
    """The parts below each heading, the code blocks' own marks left out."""
    text = re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL)
    return re.split(r'^#+ .*$', text, flags=re.MULTILINE)


def numbers_in(text: str) -> list[str]:
    return sorted(re.findall(r'(?<![\w.])[-+]?\d+(?:\.\d+)?(?![\w.]*\w)', text))


def decimals_in(text: str) -> list[str]:
    """Measured values: numbers with a decimal point."""
    return sorted(re.findall(r'\d+\.\d+', text))


def test_both_readmes_have_the_same_headings_commands_links_and_figures():
    english, chinese = ENGLISH.read_text(), CHINESE.read_text()
    levels = [re.findall(r'^#+(?= )', text, flags=re.MULTILINE) for text in (english, chinese)]
    assert levels[0] == levels[1]
    codes = [re.findall(r'```(.*?)```', text, flags=re.DOTALL) for text in (english, chinese)]
    for first, second in zip(*codes, strict=True):
        comment = re.compile(r'# .*')
        assert comment.sub('', first) == comment.sub('', second)
    others = {'README.md', 'README.zh-CN.md'}
    assert [x for x in links_of(ENGLISH) if x not in others] == [
        x for x in links_of(CHINESE) if x not in others
    ]
    for first, second in zip(sections(ENGLISH), sections(CHINESE), strict=True):
        assert decimals_in(first) == decimals_in(second)
        rows = [re.findall(r'^\|.*', text, flags=re.MULTILINE) for text in (first, second)]
        assert len(rows[0]) == len(rows[1])
        for row in zip(*rows, strict=True):
            assert numbers_in(row[0]) == numbers_in(row[1]), row


def test_the_readmes_config_adds_what_the_shipped_one_adds(tmp_path):
    (text,) = re.findall(r'```python\n(.*?)```', ENGLISH.read_text(), flags=re.DOTALL)
    recipe = 'voxel0100_r50_800x320_8xb4-cyclic-20e_nus-3d.py'
    base = ROOT / 'configs' / 'cmt' / f'cmt_{recipe}'
    (tmp_path / 'mine.py').write_text(text.replace('./my_cmt_config.py', str(base)))
    mine = Config.fromfile(tmp_path / 'mine.py')
    shipped = Config.fromfile(ROOT / 'configs' / 'cmt_bias' / f'cmt-bias-learnable_{recipe}')
    assert mine.optim_wrapper == shipped.optim_wrapper
    assert mine.custom_hooks == shipped.custom_hooks
    bias = shipped.model.pts_bbox_head.attention_bias_config
    assert bias.pop('bias_scale') == inspect.signature(BiasScale).parameters['bias_scale'].default
    assert mine.model == shipped.model


def test_the_readme_is_a_page():
    assert len(ENGLISH.read_text().splitlines()) <= 150


def test_the_monitors_rules_and_endings_are_explained():
    from cmt_bias.bias.monitor.rules import ENDINGS, RULES

    text = (ROOT / 'docs/reading_the_curve.md').read_text()
    explained = set(re.findall(r'^\| ([\w, ]+) \|', text, flags=re.MULTILINE))
    explained |= {name for names in explained for name in names.split(', ')}
    assert {*ENDINGS, *(rule.name for rule in RULES)} <= explained


def test_names_in_code_font_of_the_package_can_be_imported(page):
    for name in re.findall(r'`(cmt_bias(?:\.\w+)+)`', page.read_text()):
        module, _, attribute = name.rpartition('.')
        if importlib.util.find_spec(module) and not hasattr(
            importlib.import_module(module), attribute
        ):
            assert importlib.util.find_spec(name), name
