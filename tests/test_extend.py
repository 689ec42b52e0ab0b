"""docs/extend.md: an eighth branch is one file and one test. Everything here runs in processes of its own, because a
registered branch stays."""

import json
import re
import shlex
import shutil
import textwrap
from pathlib import Path

import pytest
from fresh_process import run_python

ROOT = Path(__file__).resolve().parents[1]
SEVEN = ('1x1', 'kxk', '1x1_kxk', '1x1_avg', '1xk', 'kx1', 'skip')
# what makes my_project/search.py a matter of seconds: 4 blocks, 4 epochs of 3 iterations
SMALL = """
    model.backbone.arch.num_blocks=[1,1,1] model.backbone.base_channels=4 model.head.in_channels=16
    train_dataloader.batch_size=16 train_dataloader.dataset.indices=48 train_cfg.max_epochs=4 train_cfg.val_interval=4
    default_hooks.checkpoint.interval=1
    custom_hooks.0.strategy=sample custom_hooks.0.warmup=1 custom_hooks.0.frozen=1"""


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A folder as the page has it: my_project/ with the page's files, beside configs/."""
    folder = tmp_path_factory.mktemp('extend')
    (folder / 'configs').symlink_to(ROOT / 'configs')
    (folder / 'my_project').mkdir()
    page = (ROOT / 'docs' / 'extend.md').read_text(encoding='utf-8')
    files = dict(re.findall(r'```python\n# my_project/(\w+\.py)\n(.*?)```', page, re.DOTALL))
    assert set(files) == {'laplace.py', 'test_laplace.py', 'search.py'}
    for name, text in files.items():
        (folder / 'my_project' / name).write_text(text, encoding='utf-8')
    return folder


def run(folder, *command, ok=True):
    """What a Python command prints, with the page's ``PYTHONPATH=.``."""
    status, output = run_python(*command, cwd=folder, env=dict(PYTHONPATH='.'))
    assert (status == 0) == ok, output[-2000:]
    return output


def train(folder, config, work_dir, *options, ok=True):
    """Run tools/train.py on a small network."""
    command = [ROOT / 'tools' / 'train.py', config, '--work-dir', work_dir, '--cfg-options', *shlex.split(SMALL)]
    return run(folder, *command, *options, ok=ok)


@pytest.fixture(scope='module')
def searched(project):
    """Work dir of a search over eight branches that keeps 22 of 29: then the eighth is in some block."""
    train(project, 'my_project/search.py', 'eight', 'custom_hooks.0.num_branches=22')
    return project / 'eight'


def test_the_test_of_the_page_passes(project):
    assert '26 passed' in run(project, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'my_project')


def test_the_test_of_the_page_fails_for_a_branch_that_fuses_wrongly(project, tmp_path):
    wrong = tmp_path / 'my_project'
    shutil.copytree(project / 'my_project', wrong, ignore=shutil.ignore_patterns('__pycache__'))
    text = (wrong / 'laplace.py').read_text(encoding='utf-8')
    (wrong / 'laplace.py').write_text(text.replace('kernel), None', 'kernel) * 1.001, None'), encoding='utf-8')
    output = run(tmp_path, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '--tb=no', 'my_project', ok=False)
    assert '24 failed, 2 passed' in output


def test_a_search_keeps_the_eighth_branch_and_ends_fused(project, searched):
    blocks = json.loads((searched / 'genotype.json').read_text())['blocks']
    assert sum(len(kept) for kept in blocks.values()) == 22
    assert any('laplace' in kept for kept in blocks.values())
    code = f"""
        import torch
        from mmengine.config import Config
        from repnas_mm.engine.checkpoint import build_model, load_file
        from repnas_mm.engine.fusing import max_difference, raw_output
        outputs = []
        for name in ('epoch_4', 'subnet', 'fused'):
            config = '{searched}/' + ('search' if name == 'epoch_4' else name) + '.py'
            model = build_model(Config.fromfile(config), load_file(f'{searched}/{{name}}.pth'))
            torch.manual_seed(0)
            outputs.append(raw_output(model, torch.randn(4, 1, 16, 16)))
        assert not any('branches' in name for name in model.state_dict())
        assert max_difference(outputs[0], outputs[1]) < 1e-6
        assert max_difference(outputs[1], outputs[2]) < 1e-5
    """
    run(project, '-c', textwrap.dedent(code))


def test_pictures_and_the_memory_constraint_know_the_eighth_branch(project, searched):
    assert '<!-- laplace -->' in (searched / 'genotype.svg').read_text()  # how matplotlib names a label drawn as paths
    code = """
        import my_project.laplace
        import torch
        from repnas_mm.models import ODBBlock
        from repnas_mm.search.memory import block_bytes
        from repnas_mm.visualization import plot_alpha

        block = ODBBlock(4, 4)
        names = block.candidates
        assert names[-1] == 'laplace'
        alpha = torch.eye(8)[0]  # one 1, so that the color bar is the same in both pictures
        without = plot_alpha({'a': alpha}, {'a': names})
        alpha[-1] = 1
        changed = (plot_alpha({'a': alpha}, {'a': names}) != without).any(2).nonzero()[0]
        assert changed.size and changed.min() > len(without) // 2  # the lowest row

        def used(*branches):
            kept = tuple(sorted(map(names.index, branches)))
            return block_bytes(block, (2, 4, 8, 8), torch.float32, kept)

        # in float32: what the BN and the ReLU need, the K x K kernel, and less than a kilobyte of the rest
        feature_map, kernel = 2 * 4 * 8 * 8 * 4, 4 * 4 * 9 * 4
        assert 0 <= used('laplace') - 2 * feature_map - kernel < 1024
        assert used('kxk', 'laplace') >= used('kxk') + feature_map + kernel
    """
    run(project, '-c', textwrap.dedent(code))
    by_memory = ('custom_hooks.0.num_branches=None', 'custom_hooks.0.memory=1MB')
    assert 'Fused model' in train(project, 'my_project/search.py', 'by_memory', *by_memory)


@pytest.fixture(scope='module')
def seven(project):
    """Work dir of a search over seven branches."""
    train(project, 'configs/odbb_digits.py', 'seven', 'custom_hooks.0.num_branches=12')
    return project / 'seven'


def test_what_was_made_with_seven_branches_still_works(project, seven):
    code = """
        import my_project.laplace
        import torch
        from mmengine.config import Config
        from repnas_mm.engine.checkpoint import build_model, load_file
        from repnas_mm.engine.fusing import raw_output
        from repnas_mm.models import ODBBBackbone
        from repnas_mm.search import PRESETS, Genotype
        for name in ('subnet', 'fused'):
            model = build_model(Config.fromfile(f'seven/{name}.py'), load_file(f'seven/{name}.pth'))
            print(raw_output(model, torch.ones(1, 1, 16, 16))[0].double().sum().item())
        assert Genotype.load('seven/genotype.json').num_branches == 12
        for name in ('odbb_a0_authors', *PRESETS):
            backbone = ODBBBackbone('A0', base_channels=8, genotype=name)
            print(name, Genotype.from_model(backbone).num_branches)
    """
    with_eighth = run(project, '-c', code := textwrap.dedent(code))
    assert 'full 149' in with_eighth
    assert with_eighth == run(project, '-c', code.replace('import my_project.laplace', 'import repnas_mm'))
    # a search may start from the fused network, the new branch then beginning at zero
    train(project, 'my_project/search.py', 'again', 'custom_hooks.0.num_branches=22', 'load_from=seven/fused.pth')


def test_a_search_over_seven_branches_does_not_load_into_one_over_eight(project, seven):
    checkpoint = f'load_from={seven}/epoch_4.pth'
    output = train(project, 'my_project/search.py', 'x', 'custom_hooks.0.num_branches=22', checkpoint, ok=False)
    seven = ', '.join(SEVEN[:-1])  # a stem has no skip
    assert f"'backbone.stem' has branches {seven}, the model's has {seven}, laplace" in output


def test_without_the_import_the_eighth_branch_is_named_as_unknown(project, searched):
    output = run(project, ROOT / 'tools' / 'plot_genotype.py', searched / 'genotype.json', ok=False)
    assert "has unknown branch 'laplace'; known are 1x1, kxk" in output.splitlines()[-1]
