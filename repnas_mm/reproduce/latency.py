"""What networks cost: parameters, FLOPs, seconds of a forward, seconds of a step of the search."""

import platform
import statistics
from collections.abc import Callable, Mapping
from functools import partial

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain import get_model
from mmpretrain.structures import DataSample
from torch import nn

from ..engine.alpha_optimizer import AlphaOptimizer
from ..engine.fusing import exact_float32
from ..engine.hooks import RepNASHook
from ..search import BranchSearch, find_blocks
from ..utils.timing import take_turns

#: Rounds go on for so many seconds, within these numbers
SECONDS, MIN_ROUNDS, MAX_ROUNDS = 10.0, 3, 20


def measuring_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def describe(device: torch.device) -> str:
    """The device in words, with the number of threads if it is the CPU."""
    if device.type == 'cuda':
        return f'one {torch.cuda.get_device_name(device)}'
    threads = torch.get_num_threads()
    return f'a CPU ({platform.processor() or platform.machine()}), {threads} thread{"s" * (threads > 1)}'


def complexity(model: nn.Module, image_size: int) -> tuple[int, int]:
    """(parameters, FLOPs) of a classifier for one RGB image of so many pixels a side.

    FLOPs are multiply-adds, as in the paper's Table 2 and as MMEngine counts them: of convolutions and linear layers,
    and two a value of a norm that is not fused.
    """
    image = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
    flops = FlopAnalyzer(model.eval(), image).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return sum(p.numel() for p in model.parameters()), int(flops.total())


def latencies(
    models: Mapping[str, nn.Module],
    batch_size: int,
    image_size: int,
    channels_last: bool,
    in_channels: int | Mapping[str, int] = 3,
    device: torch.device | str = 'cpu',
) -> dict[str, float]:
    """Name -> median seconds of a forward in eval mode, in float32 without TF32.

    Args:
        models: Moved to the device and memory format, in place.
        batch_size: Images of a forward.
        image_size: Their side, in pixels.
        channels_last: Keep weights and images as NHWC instead of PyTorch's usual NCHW.
        in_channels: Of the images; the same for all models, or name -> channels.
        device: Where to measure.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    channels = {name: in_channels if isinstance(in_channels, int) else in_channels[name] for name in models}
    images = {
        c: torch.rand(batch_size, c, image_size, image_size).to(device, memory_format=memory_format)
        for c in set(channels.values())
    }
    runs = {
        name: partial(model.to(device, memory_format=memory_format).eval(), images[channels[name]])
        for name, model in models.items()
    }
    with torch.inference_mode(), exact_float32():
        return _medians(runs)


def step_seconds(cfg: Config, device: torch.device | str = 'cpu') -> float:
    """Median seconds of one training step of the search that a classifier's config describes (`search_step`)."""
    return _medians({'step': search_step(cfg, device)[0]})['step']


def search_step(cfg: Config, device: torch.device | str = 'cpu') -> tuple[Callable[[], None], BranchSearch]:
    """One step of Algorithm 1, to call again and again, and the search it is a step of.

    It samples branches, runs forward, loss and backward on random images of the config's size and batch size, and steps
    the weights and α. It loads no data.

    Args:
        cfg: With RepNASHook and its ``num_branches``.
        device: Where the model is.

    Raises:
        ValueError: if the training pipeline does not tell the size of the images.
    """
    settings = next(dict(hook) for hook in cfg.custom_hooks if hook['type'] == 'RepNASHook')
    settings.pop('type')
    hook = RepNASHook(**settings)
    model = get_model(cfg, device=device).train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    search = BranchSearch(find_blocks(model), **hook.constraint)
    alpha_optimizer = AlphaOptimizer(search.alphas, optim_wrapper, hook.alpha_optimizer_cfg)
    batch = _random_batch(cfg)

    def step() -> None:
        search.apply(*search.sample())
        alpha_optimizer.start_iter()
        model.train_step(batch, optim_wrapper)
        alpha_optimizer.finish_iter()

    return step, search


def image_shape(cfg: Config) -> tuple[int, int, int, int]:
    """(N, C, H, W) of a training batch: H and W from the last transform of the pipeline that sets a size.

    Raises:
        ValueError: if no transform does.
    """
    dataset = cfg.train_dataloader.dataset
    while 'pipeline' not in dataset:  # RepeatDataset and the like
        dataset = dataset.dataset
    sizes = [t.get('crop_size') or t.get('scale') for t in dataset.pipeline]
    size = next((size for size in reversed(sizes) if size), None)
    if size is None:
        raise ValueError('No transform of the training pipeline has a crop_size or scale that tells the image size.')
    height, width = (size, size) if isinstance(size, int) else size
    return cfg.train_dataloader.batch_size, cfg.model.backbone.get('in_channels', 3), height, width


def _random_batch(cfg: Config) -> dict:
    """What the training's loader would give, with noise for images."""
    shape = image_shape(cfg)
    return dict(
        inputs=torch.randint(256, shape, dtype=torch.uint8),
        data_samples=[DataSample().set_gt_label(i % cfg.model.head.num_classes) for i in range(shape[0])],
    )


def _medians(runs: Mapping[str, Callable]) -> dict[str, float]:
    """Median seconds of each."""
    measured = take_turns(runs, MIN_ROUNDS, MAX_ROUNDS, SECONDS)
    return {name: statistics.median(seconds) for name, seconds in measured.items()}
