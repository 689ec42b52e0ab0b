"""A backbone trained on classification first, then taken over by a detector (the paper's 4.4)."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import find_latest_checkpoint

from repnas_mm.engine.checkpoint import load_file
from repnas_mm.engine.log_history import log_history_allowed

#: Side of the digit scans that the backbones of detectors are trained on, in pixels
SIZE = 32


def classification_options(detector: Config) -> dict:
    """Options that turn ``configs/odbb_digits.py`` into the classification that trains the backbone of ``detector``.

    The scans become color images, normalized as the detector's images are. Where the detector has nothing to fuse, the
    classification searches nothing.

    Returns:
        Options, with a ``_delete_`` for ``Config.merge_from_dict`` to use up.
    """
    model = detector.model.to_dict()
    options = {
        'model.backbone': dict(_delete_=True, **model['backbone']),
        'model.head.in_channels': model['neck']['in_channels'],
        'model.data_preprocessor.mean': model['data_preprocessor']['mean'],
        'model.data_preprocessor.std': model['data_preprocessor']['std'],
        'train_dataloader.dataset.pipeline.1.crop_size': SIZE,
        'train_dataloader.dataset.pipeline.1.padding': SIZE // 16,
    }
    for split in ('train', 'val', 'test'):
        options[f'{split}_dataloader.dataset.channels'] = 3
        options[f'{split}_dataloader.dataset.pipeline.0.scale'] = SIZE
    if not detector.get('custom_hooks'):
        options['custom_hooks'] = []
    return options


def backbone_from(classification: Path) -> dict:
    """Settings that make a detector's backbone the one that a training left in its folder: of a search the subnet."""
    if (classification / 'genotype.json').exists():
        checkpoint = classification / 'subnet.pth'
        settings = dict(genotype=str(classification / 'genotype.json'))
    else:
        # only its name, since the whole path is wrong when the folder has moved
        checkpoint = classification / Path(find_latest_checkpoint(str(classification))).name
        settings = {}
    return settings | dict(init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint), prefix='backbone.'))


def count_taken_over(cfg: Config, checkpoint: str | Path) -> int:
    """Number of tensors that a fresh detector's backbone takes from ``checkpoint``.

    Raises:
        ValueError: if it is not all of them; MMEngine itself only logs what does not fit.
    """
    with DefaultScope.overwrite_default_scope(cfg.default_scope), _quiet(), log_history_allowed():
        model = MODELS.build(cfg.model)
        model.init_weights()
    source = load_file(checkpoint)['state_dict']
    state = {f'backbone.{name}': value for name, value in model.backbone.state_dict().items()}
    for name, value in state.items():
        if name not in source or not torch.equal(value, source[name]):
            raise ValueError(f"'{name}' of the detector did not come from '{checkpoint}'.")
    return len(state)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the lines that MMEngine writes of every tensor it initializes."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
