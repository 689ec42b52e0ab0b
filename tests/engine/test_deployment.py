"""The fused network in the tools that users deploy with, and the inferencers of mmpretrain and mmdet."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain import ImageClassificationInferencer

from repnas_mm.datasets import write_coco_digits
from repnas_mm.engine.checkpoint import build_model
from repnas_mm.engine.deployment import Network, export_onnx
from repnas_mm.engine.fusing import fuse_model, max_difference
from repnas_mm.engine.log_history import log_history_allowed
from repnas_mm.search import find_blocks

ROOT = Path(__file__).resolve().parents[2]


def fused_classifier():
    cfg = Config.fromfile(ROOT / 'configs' / 'odbb_digits.py')
    init_default_scope('mmpretrain')
    return MODELS.build(cfg.model), (1, 16, 16)


def fused_detector():
    cfg = Config.fromfile(ROOT / 'configs' / 'centernet_odbb_digits.py')
    init_default_scope('mmdet')
    return MODELS.build(cfg.model), (3, 64, 64)


@pytest.fixture(params=[fused_classifier, fused_detector])
def network(request):
    """A fused network, images for it, and what it computes."""
    torch.manual_seed(0)
    model, shape = request.param()
    model.train()
    with torch.no_grad():
        model(torch.randn(8, *shape), mode='tensor')  # BN statistics of its own
    fuse_model(model.eval())
    network, images = Network(model).eval(), torch.randn(2, *shape)
    with torch.no_grad():
        return network, images, network(images)


def test_onnx_runtime_computes_the_same(network, tmp_path):
    import onnxruntime

    network, images, expected = network
    assert export_onnx(network.model, tmp_path / 'network.onnx', tuple(images.shape[1:])) < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / 'network.onnx')
    for batch in (images, images[:1]):  # the batch size is free
        found = session.run(None, {'images': batch.numpy()})
        expected_part = [out[: len(batch)] for out in expected]
        assert max_difference(expected_part, [torch.from_numpy(out) for out in found]) < 1e-4
    # nothing but convolutions is left of the blocks
    import onnx

    operations = {node.op_type for node in onnx.load(tmp_path / 'network.onnx').graph.node}
    assert 'Conv' in operations and 'AveragePool' not in operations


def test_torch_export_torchscript_and_compile_compute_the_same(network):
    network, images, expected = network
    with torch.no_grad():
        exported = torch.export.export(network, (images,)).module()
        traced = torch.jit.trace(network, images)
        # without inductor's minutes of C++ compilation; what is compiled is the graph all the same
        compiled = torch.compile(network, backend='aot_eager', fullgraph=True)
        for other in (exported, traced, compiled):
            assert max_difference(list(expected), list(other(images))) < 1e-6


def test_a_classifier_infers_the_same_searched_pruned_and_fused(small_cfg, run):
    folder = Path(run(small_cfg).work_dir)
    small_cfg.dump(str(folder / 'search.py'))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (8, 8, 1), dtype=np.uint8) for _ in range(4)]
    scores = {}
    for config, checkpoint in (('search.py', 'epoch_6.pth'), ('subnet.py', 'subnet.pth'), ('fused.py', 'fused.pth')):
        with log_history_allowed():  # which a search's own checkpoint has
            inferencer = ImageClassificationInferencer(str(folder / config), pretrained=str(folder / checkpoint))
        assert inferencer.classes == tuple('0123456789')
        found = inferencer(images, batch_size=4)
        assert found[0]['pred_class'] in '0123456789'
        scores[config] = np.stack([result['pred_scores'] for result in found])
    assert not find_blocks(inferencer.model) or inferencer.model.backbone.deploy
    for values in scores.values():
        assert np.abs(values - scores['search.py']).max() < 1e-5


def test_a_detector_infers_the_same_searched_pruned_and_fused(tmp_path, run):
    write_coco_digits(tmp_path / 'data', num_train=8, num_val=2, image_size=64)
    cfg = Config.fromfile(ROOT / 'configs' / 'centernet_odbb_digits.py')
    cfg.work_dir = str(tmp_path / 'run')
    cfg.train_dataloader.dataset.data_root = str(tmp_path / 'data')
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.train_cfg = dict(by_epoch=True, max_epochs=3)
    cfg.custom_hooks[0].update(strategy='sample', warmup=1, frozen=1)
    cfg.default_hooks.checkpoint.interval = 1
    run(cfg)
    folder = tmp_path / 'run'
    cfg.dump(str(folder / 'search.py'))
    image = str(next((tmp_path / 'data' / 'val2017').iterdir()))
    found = {}
    for config, checkpoint in (('search.py', 'epoch_3.pth'), ('subnet.py', 'subnet.pth'), ('fused.py', 'fused.pth')):
        with log_history_allowed():
            detector = init_detector(str(folder / config), str(folder / checkpoint), device='cpu')
        assert detector.dataset_meta['classes'] == tuple('0123456789')
        found[config] = inference_detector(detector, image).pred_instances
    assert detector.backbone.deploy
    for instances in found.values():
        assert len(instances) == 100
        assert torch.allclose(instances.scores, found['search.py'].scores, atol=1e-5)


def test_a_search_checkpoint_of_a_conv_cfg_model_brings_its_form_along(tmp_path):
    """Without a word about it in the config: search, subnet and fused checkpoints of one stock ResNet config."""
    init_default_scope('mmpretrain')
    model = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8, conv_cfg=dict(type='ODBBConv2d'))
    cfg = Config(dict(model=model, default_scope='mmpretrain'))
    images = torch.randn(2, 3, 32, 32)
    search = build_model(cfg, dict(state_dict=MODELS.build(cfg.model).state_dict()))
    search.eval()
    for i, block in enumerate(find_blocks(search).values()):
        block.set_active([j % 3 == i % 3 for j in range(len(block.candidates))])
    with torch.no_grad():
        expected = search(images)[-1]
        subnet = build_model(cfg, dict(state_dict=search.state_dict()))
        for block in find_blocks(subnet).values():
            block.switch_to_subnet()
        again = build_model(cfg, dict(state_dict=subnet.state_dict()))
        again.eval()
        assert all(block.alpha is None for block in find_blocks(again).values())
        assert torch.equal(again(images)[-1], expected)
