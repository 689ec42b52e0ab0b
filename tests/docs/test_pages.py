"""Links, config snippets and commands of the pages name what exists."""

import ast
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, init_default_scope
from pages import PAGES, ROOT, blocks, commands, is_config

LINK = re.compile(r'(?<!`)\[[^\]]*\]\(([^)\s]+)\)')
BASE = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'


def without_code(text: str) -> str:
    return re.sub(r'^```.*?^```$', '', text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What GitHub and mkdocs make of the headings."""
    headings = re.findall(r'^#+ (.+)$', without_code(page.read_text(encoding='utf-8')), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in LINK.findall(without_code(page.read_text(encoding='utf-8'))):
        if re.match(r'https?://|mailto:', target):
            continue
        path, _, anchor = target.partition('#')
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f'{page.name}: {target}'
        assert there.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(there), f'{page.name}: {target}'


def test_every_page_can_be_found():
    """From the README, and from the navigation of the site."""
    readme, site = (ROOT / 'README.md').read_text(), (ROOT / 'mkdocs.yml').read_text()
    for page in (ROOT / 'docs').glob('*.md'):
        assert f'{page.name}' in site
        if page.name not in ('index.md', 'reference.md'):
            assert f'(docs/{page.name})' in readme


CONFIGS = [block for page in PAGES for block in blocks(page) if block.language == 'python' and is_config(block.code)]


@pytest.mark.parametrize('block', [b for b in CONFIGS if b.run], ids=lambda block: block.where)
def test_config_snippets_work_on_a_stock_config(block, tmp_path):
    """Each ``model`` of a block that shows several is tried."""
    statements = ast.parse(block.code).body
    models = [s for s in statements if s.targets[0].id == 'model']
    others = [s for s in statements if s not in models]
    for model in models or [None]:
        lines = [f'_base_ = {BASE!r}', *(ast.unparse(s) for s in (*others, *filter(None, [model])))]
        lines += ["custom_imports = dict(imports=['repnas_mm'], allow_failed_imports=False)"]
        (tmp_path / 'config.py').write_text('\n'.join(lines), encoding='utf-8')
        cfg = Config.fromfile(tmp_path / 'config.py')
        init_default_scope('mmdet')
        built = MODELS.build(cfg.model)
        assert not models or any('alpha' in name for name, _ in built.named_parameters())
        for hook in cfg.get('custom_hooks', []):
            HOOKS.build(hook)


def check_options(script: str, command: str) -> None:
    """Whether a script knows all options that stand behind its name."""
    source = (ROOT / script).read_text() + (ROOT / 'repnas_mm/utils/cli.py').read_text()
    for option in re.findall(r' (--[\w-]+)', command.partition(script)[2]):
        assert f"'{option}'" in source, f'{command}: {option}'


SHELL = [block for page in PAGES for block in blocks(page) if block.language == 'bash']


@pytest.mark.parametrize('block', SHELL, ids=lambda block: block.where)
def test_commands_name_files_and_options_that_exist(block):
    for command in commands(block.code):
        words = command.split()
        if words[0] == 'make':
            assert re.search(rf'^{words[1]}:', (ROOT / 'Makefile').read_text(), re.MULTILINE)
        for word in words:
            if re.match(r'(configs|tools|tests|demo)/', word):
                assert (ROOT / word).exists(), f'{block.where}: {word}'
        if tool := re.search(r'python (?:\S+/)?((?:tools|demo)/\w+\.py)', command):
            check_options(tool[1], command)


def inline_commands() -> list[tuple[str, str]]:
    """Commands that the text names in backquotes, beside the figures that they made."""
    found = []
    for page in PAGES:
        for code in re.findall(r'`([^`]+)`', without_code(page.read_text(encoding='utf-8'))):
            code = ' '.join(code.split())
            if re.match(r'(\.venv/bin/)?python (tools|demo|tests)/\S+\.py', code):
                found.append((page.name, code))
    return found


@pytest.mark.parametrize(('page', 'command'), inline_commands())
def test_commands_in_the_text_name_files_and_options_that_exist(page, command):
    script = re.search(r'python (\S+\.py)', command)[1]
    assert (ROOT / script).exists()
    check_options(script, command)


@pytest.mark.parametrize('folder', ['classification', 'detection', 'detection_resnet'])
def test_the_page_on_cost_shows_what_the_tool_wrote(folder):
    rows = (ROOT / 'docs/results/config_cost' / folder / 'config_cost.md').read_text().splitlines()
    page = (ROOT / 'docs/configs.md').read_text().splitlines()
    assert [row for row in rows if row.startswith('|') and row not in page] == []
