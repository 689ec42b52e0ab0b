"""What a training step costs beside stock RepVGG and the naive block, in each precision."""

from collections.abc import Callable, Iterator
from functools import partial

from benchmarking import MEASURES
from benchmarking.settings import Setting

#: Precision -> fields of a setting
PRECISIONS = {
    'bfloat16': dict(amp='bfloat16'),
    'TF32': dict(tf32=True),
    'float32': dict(tf32=False),
}
MEASURED = ('kept', 'step')
DRAWS = 2


def jobs(archs: tuple[str, ...], batches: tuple[int, ...], size: int, **shape) -> Iterator[tuple[str, Callable]]:
    """(What it says, function that returns rows), the most telling first: in case time does not do for all."""
    for batch_size in batches:
        for precision, how in PRECISIONS.items():
            for arch in archs:
                setting = Setting(arch, size, batch_size, **shape, **how)
                yield f'cost: {setting}, {precision}', partial(_measure, setting, precision, MEASURED)
    channels_last = Setting(archs[0], size, batches[0], amp='bfloat16', channels_last=True, **shape)
    yield f'cost: {channels_last}, channels-last', partial(_measure, channels_last, 'bfloat16, channels-last', MEASURED)


def compiled(arch: str, batch_size: int, size: int, **shape) -> Iterator[tuple[str, Callable]]:
    """The same for what torch.compile gains, which takes minutes to compile."""
    setting = Setting(arch, size, batch_size, amp='bfloat16', **shape)
    yield f'compiled: {setting}', partial(_measure, setting, 'bfloat16', ('compiled', 'compiled-step'))


def _measure(setting: Setting, precision: str, measures: tuple[str, ...]) -> list[dict]:
    rows = [row for name in measures for row in MEASURES[name](setting, DRAWS)]
    return [{'what': row.pop('what'), 'setting': row.pop('setting'), 'precision': precision, **row} for row in rows]
