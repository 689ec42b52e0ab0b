"""The command-line tools, started as a user starts them."""

import io
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import mmpretrain
import pytest
import torch
from fresh_process import run_python
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from scripts import load_script

from repnas_mm.engine.checkpoint import build_model, load_file
from repnas_mm.engine.fusing import max_difference, raw_output
from repnas_mm.search import Genotype

ROOT = Path(__file__).resolve().parents[2]
#: Tools that set up a process: loggers, random states, ranks. The others are functions of their arguments
OF_A_PROCESS = ('train', 'test')


def run_tool(name, *arguments, ok=True):
    """Run a script of tools/ by its name; returns what it printed, or the error that it ended with."""
    if name in OF_A_PROCESS or Path(name).is_absolute():
        script = name if Path(name).is_absolute() else ROOT / 'tools' / f'{name}.py'
        status, output = run_python(script, *arguments, cwd=ROOT)
        assert (status == 0) == ok, output[-2000:]
        return output
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        if ok:
            load_script(f'tools/{name}.py').main([*map(str, arguments)])
        else:
            with pytest.raises((Exception, SystemExit)) as error:
                load_script(f'tools/{name}.py').main([*map(str, arguments)])
            printed.write(str(error.value))
    return printed.getvalue()


@pytest.fixture(scope='module')
def searched(tmp_path_factory):
    """Config and work dir of a tiny search that tools/train.py ran, without a frozen phase."""
    folder = tmp_path_factory.mktemp('searched')
    config = folder / 'tiny.py'
    config.write_text(
        f"""_base_ = '{ROOT}/configs/odbb_digits.py'
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, num_blocks=[1, 1, 1], width_factor=[1, 1, 1], strides=[1, 2, 2]),
        base_channels=4,
        share_weights=True,
    ),
    head=dict(in_channels=16),
)
train_dataloader = dict(batch_size=16, dataset=dict(indices=48))
train_cfg = dict(max_epochs=2)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=-1))
custom_hooks = [dict(type='RepNASHook', strategy='sample', num_branches=10), dict(type='FuseHook')]
"""
    )
    run_tool('train', config, '--work-dir', folder / 'run', '--cfg-options', 'randomness.seed=3')
    return config, folder / 'run'


def test_train_takes_the_stock_options(searched, tmp_path):
    config, work_dir = searched
    assert Config.fromfile(work_dir / 'tiny.py').randomness.seed == 3
    work_dir = shutil.copytree(work_dir, tmp_path / 'run')
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_2.pth'))
    text = run_tool(
        'train', config, '--work-dir', work_dir, '--resume', '--auto-scale-lr', '--no-validate',
        '--cfg-options', 'auto_scale_lr.base_batch_size=16', 'train_cfg.max_epochs=3',
    )  # fmt: skip
    assert 'resumed epoch: 2' in text
    assert 'Epoch(train) [3][3/3]' in text
    assert 'Epoch(val)' not in text


def test_train_refuses_a_work_dir_that_cannot_be_written(searched, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    text = run_tool('train', searched[0], '--work-dir', tmp_path / 'file' / 'run', ok=False)
    assert f"Work dir '{tmp_path}/file/run' cannot be written" in text


def test_test_gives_one_accuracy_for_all_three_forms(searched, tmp_path):
    config, work_dir = searched
    found = []
    for name in ('epoch_2', 'subnet', 'fused'):
        test_config = config if name == 'epoch_2' else work_dir / f'{name}.py'
        run_tool(
            'test', test_config, work_dir / f'{name}.pth', '--work-dir', tmp_path, '--out', tmp_path / f'{name}.json'
        )
        found.append((tmp_path / f'{name}.json').read_text())
    # the subnet's BN statistics are recalibrated, so only it and the fused one must agree
    assert found[1] == found[2]


def test_export_subnet_repeats_what_the_hook_exported(searched, tmp_path):
    config, work_dir = searched
    text = run_tool('export_subnet', config, work_dir / 'epoch_2.pth', tmp_path)
    assert '10 branches' in text
    assert dict(Genotype.load(tmp_path / 'genotype.json')) == dict(Genotype.load(work_dir / 'genotype.json'))
    assert {'genotype.png', 'genotype.svg', 'subnet.pth', 'subnet.py'} <= {path.name for path in tmp_path.iterdir()}
    raw = load_file(work_dir / 'epoch_2.pth')['state_dict']
    new = load_file(tmp_path / 'subnet.pth')['state_dict']
    assert torch.equal(raw['backbone.stem.weight'], new['backbone.stem.weight'])
    mean = next(key for key in new if key.endswith('running_mean'))
    assert not torch.equal(raw[mean], new[mean])
    run_tool('export_subnet', config, work_dir / 'epoch_2.pth', tmp_path, '--no-recalibrate')
    assert torch.equal(raw[mean], load_file(tmp_path / 'subnet.pth')['state_dict'][mean])
    text = run_tool('export_subnet', config, work_dir / 'subnet.pth', tmp_path, ok=False)
    assert 'was not written by a search' in text


@pytest.mark.parametrize('source', ['epoch_2', 'subnet'])
def test_fuse_writes_a_deploy_checkpoint_and_its_config(searched, tmp_path, source):
    config, work_dir = searched
    shape = ('--shape', 1, 16, 16) if source == 'subnet' else ()  # else as many channels as the network takes, one
    text = run_tool('fuse', config, work_dir / f'{source}.pth', tmp_path / 'out.pth', *shape)
    assert float(re.search(r'unfused model: (\S+)', text)[1]) < 1e-5
    images = torch.randn(2, 1, 16, 16)
    before = build_model(Config.fromfile(config), load_file(work_dir / f'{source}.pth'))
    after = build_model(Config.fromfile(tmp_path / 'out.py'), load_file(tmp_path / 'out.pth'))
    assert max_difference(raw_output(before, images), raw_output(after, images)) < 1e-5


def test_fuse_refuses_what_is_fused_or_another_shape(searched, tmp_path):
    config, work_dir = searched
    text = run_tool('fuse', config, work_dir / 'fused.pth', tmp_path / 'out.pth', ok=False)
    assert 'is fused already' in text
    text = run_tool('fuse', config, work_dir / 'subnet.pth', tmp_path / 'out.pth', '--shape', 3, 8, 8, ok=False)
    assert 'The network does not take images of shape (3, 8, 8), give others by --shape: ' in text
    assert not list(tmp_path.iterdir())


def test_fuse_writes_for_stock_repvgg(tmp_path):
    config = tmp_path / 'a0.py'
    config.write_text(
        f"_base_ = '{ROOT}/configs/odbb_a0_imagenet.py'\n"
        'options = dict(out_indices=(-1,), strides=(2, 1, 2, 1), dilations=(1, 2, 1, 1), add_ppf=True)\n'
        'model = dict(head=dict(in_channels=160), backbone=dict(options, base_channels=8, genotype="dbb"))\n'
    )
    cfg = Config.fromfile(config)
    model = build_model(cfg, dict(state_dict=_fresh(cfg)))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'subnet.pth')
    run_tool('fuse', config, tmp_path / 'subnet.pth', tmp_path / 'out.pth', '--repvgg-keys', '--shape', 3, 64, 64)
    stock_cfg = Config.fromfile(tmp_path / 'out.py')
    assert stock_cfg.model.backbone.type == 'mmpretrain.RepVGG'
    stock = build_model(stock_cfg, load_file(tmp_path / 'out.pth'))
    assert type(stock.backbone) is mmpretrain.models.RepVGG
    images = torch.randn(2, 3, 64, 64)
    assert max_difference(raw_output(model, images), raw_output(stock, images)) < 1e-5


def _fresh(cfg):
    from mmpretrain.registry import MODELS

    model = MODELS.build(cfg.model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.state_dict()


def test_stock_reparameterize_tool_converts_a_search_checkpoint(searched, tmp_path):
    config, work_dir = searched
    tool = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / 'model_converters' / 'reparameterize_model.py'
    run_tool(str(tool), config, work_dir / 'epoch_2.pth', tmp_path / 'out.pth')
    images = torch.randn(2, 1, 16, 16)
    cfg = Config.fromfile(config)
    before = build_model(cfg, load_file(work_dir / 'epoch_2.pth'))
    after = build_model(cfg, load_file(tmp_path / 'out.pth'))
    assert max_difference(raw_output(before, images), raw_output(after, images)) < 1e-5


def test_plot_genotype_draws_png_and_svg(searched, tmp_path):
    _, work_dir = searched
    text = run_tool('plot_genotype', work_dir / 'genotype.json', '--out', tmp_path / 'picture', '--title', 'A search')
    assert text.split()[-2:] == [str(tmp_path / 'picture.png'), str(tmp_path / 'picture.svg')]
    assert (tmp_path / 'picture.png').read_bytes().startswith(b'\x89PNG')
    text = run_tool('plot_genotype', tmp_path / 'none.json', ok=False)
    assert 'none.json' in text.splitlines()[-1]


def test_export_onnx_writes_what_onnx_runtime_computes_alike(searched, tmp_path):
    config, work_dir = searched
    out = tmp_path / 'network.onnx'
    text = run_tool('export_onnx', config, work_dir / 'subnet.pth', out, '--shape', 1, 16, 16)
    difference = float(re.search(r'differs from torch by (\S+)', text)[1])
    assert difference < 1e-4 and out.stat().st_size > 10_000


def test_make_coco_digits_writes_the_layout_and_spares_what_is_there(tmp_path):
    run_tool('make_coco_digits', tmp_path / 'coco', '--num-train', 2, '--num-val', 1, '--size', 64)
    assert len(list((tmp_path / 'coco' / 'train2017').iterdir())) == 2
    text = run_tool('make_coco_digits', tmp_path / 'coco', ok=False)
    assert 'exists and is not empty' in text.strip().splitlines()[-1]


def test_fuse_takes_a_conv_cfg_model_back_to_stock(tmp_path):
    text = (
        "_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'\n"
        "custom_imports = dict(imports=['repnas_mm'])\n"
        'model = dict(backbone=dict(base_channels=8, stem_channels=8, {}), head=dict(in_channels=64))\n'
    )
    (tmp_path / 'odbb.py').write_text(text.format("conv_cfg=dict(type='ODBBConv2d')"))
    (tmp_path / 'stock.py').write_text(text.format(''))
    init_default_scope('mmpretrain')
    torch.save(MODELS.build(Config.fromfile(tmp_path / 'odbb.py').model).state_dict(), tmp_path / 'odbb.pth')
    run_tool('fuse', tmp_path / 'odbb.py', tmp_path / 'odbb.pth', tmp_path / 'fused.pth', '--shape', 3, 64, 64)
    stock = MODELS.build(Config.fromfile(tmp_path / 'stock.py').model)
    stock.load_state_dict(load_file(tmp_path / 'fused.pth')['state_dict'])
    assert Config.fromfile(tmp_path / 'fused.py').model == Config.fromfile(tmp_path / 'stock.py').model
