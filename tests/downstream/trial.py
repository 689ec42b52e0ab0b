"""A stock model's whole way: blocks as `describe` advises, search, fuse, back into the stock model, inference."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import stack  # noqa: F401, before any of the packages
import timm
import torch
from data import SIZE
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from shrunk import ITERATIONS, VAL, stock_config
from torch import nn
from torch.nn.functional import cross_entropy

from repnas_mm.engine import Shrinking
from repnas_mm.engine.checkpoint import build_model, load_file
from repnas_mm.engine.describe.ways import best_way, build, go, reach
from repnas_mm.engine.fusing import fuse_checked, max_difference, network_output
from repnas_mm.models import to_odbb
from repnas_mm.models.survey import BLOCKS, ELIGIBLE, survey
from repnas_mm.search import Genotype, find_blocks

#: Of which a search is a fifth, and needs four
TIMM_STEPS = 20


class Result(NamedTuple):
    """A row of the table."""

    package: str
    config: str
    #: Which parts of the model became blocks, and how
    ways: str
    #: Convolutions of the stock model with more than one weight a pair of channels
    kxk: int
    blocks: int
    #: Kept by the search
    branches: int
    trained: str
    #: Largest |Δ| between the fused network and its subnet in eval mode, of the largest output
    difference: float
    #: Names of the convolutions with a bias that the stock model has not; without any it loads the fused weights
    new_biases: tuple[str, ...]
    #: What ran on the fused files
    inferencer: str


def try_config(name: str, data: Path, work_dir: Path) -> Result:
    """Train the stock config ``name`` with blocks wherever a setting reaches, and take its fused files to the end."""
    cfg = stock_config(name, data, work_dir)
    stock = build(cfg)
    ways = use_best_ways(cfg, stock)
    built = survey(build(cfg))
    blocks = sum(c.kind in BLOCKS for c in built)
    cfg.setdefault('custom_imports', dict(imports=[], allow_failed_imports=False))
    cfg.custom_imports.imports = [*cfg.custom_imports.imports, 'repnas_mm']
    cfg.custom_hooks += [dict(type='RepNASHook', num_branches=2 * blocks, frozen=1), dict(type='FuseHook')]
    runner = new_runner(cfg)
    runner.train()

    fused_cfg, fused_file = Config.fromfile(work_dir / 'fused.py'), load_file(work_dir / 'fused.pth')
    batch = next(iter(runner.val_dataloader))
    subnet, fused = (
        build_model(Config.fromfile(work_dir / f'{form}.py'), load_file(work_dir / f'{form}.pth'))
        for form in ('subnet', 'fused')
    )
    difference = max_difference(network_output(subnet, batch), network_output(fused, batch))
    new_biases = fused_file['meta']['new_biases']
    check_keys(fused_file['state_dict'], stock, new_biases)
    if not new_biases:
        assert 'repnas' not in str(fused_cfg.custom_imports) and 'ODBB' not in fused_cfg.pretty_text

    fused_cfg.load_from = str(work_dir / 'fused.pth')
    new_runner(fused_cfg).test()
    return Result(
        name.partition('::')[0],
        name.partition('::')[2],
        ways,
        count_kxk(stock),
        blocks,
        Genotype.load(work_dir / 'genotype.json').num_branches,
        f'{ITERATIONS} iterations',
        difference,
        tuple(new_biases),
        infer(name, data, work_dir),
    )


def try_timm(name: str) -> Result:
    """Search a timm model in a plain loop, fuse it, and load it into the stock model."""
    model_name = name.removeprefix('timm::')
    torch.manual_seed(0)
    stock = timm.create_model(model_name)
    model = to_odbb(timm.create_model(model_name))
    blocks = find_blocks(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    search = Shrinking(model, optimizer, num_branches=2 * len(blocks), steps=TIMM_STEPS)
    for _ in range(TIMM_STEPS):
        loss = cross_entropy(model(torch.randn(2, 3, 96, 96)), torch.arange(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    genotype, images = search.finish(), torch.randn(2, 3, 96, 96)

    @torch.no_grad()
    def outputs(network):
        return [network.eval()(images)]

    fused = fuse_checked(model, outputs)
    check_keys(model.state_dict(), stock, fused.new_biases)
    return Result(
        'timm',
        model_name,
        'to_odbb',
        count_kxk(stock),
        len(blocks),
        genotype.num_branches,
        f'{TIMM_STEPS} iterations',
        fused.difference,
        tuple(fused.new_biases),
        '-',
    )


def check_keys(fused: Mapping[str, torch.Tensor], stock: nn.Module, new_biases: Sequence[str]) -> None:
    """The fused weights have the stock model's keys and shapes, and the new biases besides."""
    biases = {f'{name}.bias' for name in new_biases}
    shapes = {key: value.shape for key, value in stock.state_dict().items()}
    assert {key: value.shape for key, value in fused.items() if key not in biases} == shapes
    assert biases <= fused.keys() and not biases & shapes.keys()


def use_best_ways(cfg: Config, stock: nn.Module) -> str:
    """Make blocks as `describe` advises; returns the settings' names."""
    parts = dict.fromkeys(c.part for c in survey(stock) if c.kind == ELIGIBLE)
    found = reach(cfg, parts, dict.fromkeys(parts, 0))
    used = []
    for part in parts:
        way = best_way(found, part)
        if found[way][part].blocks:
            go(way, cfg.model, found[way][part].layers)
            used.append(f'{way}: {part}')
    return ', '.join(used)


def count_kxk(model: nn.Module) -> int:
    """Number of convolutions that are not 1×1."""
    sizes = (model.get_submodule(c.name).kernel_size for c in survey(model))
    return sum(any(n > 1 for n in ((size,) if isinstance(size, int) else size)) for size in sizes)


def new_runner(cfg: Config) -> Runner:
    """Make a runner; MMEngine keeps one of each name, and visualizers, whose folder may be gone."""
    cfg = deepcopy(cfg)
    new_runner.count += 1
    cfg.experiment_name = cfg.visualizer.name = f'trial_{new_runner.count}'
    DefaultScope._instance_dict.clear()
    return Runner.from_cfg(cfg)


new_runner.count = 0


# ---- inferencers ----


def infer(name: str, data: Path, work_dir: Path) -> str:
    """Run the package's own inferencer with the fused files; returns its name."""
    DefaultScope._instance_dict.clear()
    torch.manual_seed(0)
    package = name.partition('::')[0]
    files = str(work_dir / 'fused.py'), str(work_dir / 'fused.pth')
    image = str(next((data / 'coco' / VAL).glob('*.jpg')))
    if package == 'mmpretrain':
        from mmpretrain import ImageClassificationInferencer

        result = ImageClassificationInferencer(*files, device='cpu', classes=[*map(str, range(1000))])(image)[0]
        assert result['pred_label'] >= 0
        return 'ImageClassificationInferencer'
    if package == 'mmseg':
        from mmseg.apis import MMSegInferencer

        result = MMSegInferencer(*files, device='cpu')(image)
        assert result['predictions'].shape == (SIZE, SIZE)
        return 'MMSegInferencer'
    if package == 'mmpose':
        from mmpose.apis import Pose2DInferencer

        result = next(Pose2DInferencer(*files, device='cpu', det_model='whole_image')(image))
        assert len(result['predictions'][0][0]['keypoints']) == 17
        return 'Pose2DInferencer'
    if package == 'mmaction':
        from mmaction.apis.inferencers import ActionRecogInferencer

        video = str(next((data / 'videos' / VAL).glob('*.mp4')))
        result = ActionRecogInferencer(*files, device='cpu')(video)['predictions'][0]
        assert len(result['pred_labels']) == 1
        return 'ActionRecogInferencer'
    if package == 'mmocr':
        from mmocr.apis import TextDetInferencer, TextRecInferencer

        kind = TextDetInferencer if 'det_head' in Config.fromfile(files[0]).model else TextRecInferencer
        result = kind(*files, device='cpu')(image)['predictions'][0]
        assert 'polygons' in result or 'text' in result
        return kind.__name__
    if package == 'mmrotate':  # whose demo does it so
        from mmdet.apis import inference_detector, init_detector

        assert 'bboxes' in inference_detector(init_detector(*files, device='cpu'), image).pred_instances
        return 'inference_detector'
    from mmdet.apis import DetInferencer

    result = DetInferencer(*files, device='cpu', scope=package)(image)['predictions'][0]
    assert 'bboxes' in result
    return 'DetInferencer'
