"""A line of the benchmark's table: a ratio, its spread, and what it has to reach."""

from collections.abc import Sequence

from measuring.reports import Mean

from .settings import Setting

#: (what, which gates) -> (must reach, aim), in every setting
EVERYWHERE = {
    ('step time ÷ naive', 'random'): (1.00, None),
    ('bytes saved for backward ÷ naive', 'random'): (0.35, None),
    ('bytes saved for backward ÷ naive', 'converged'): (0.35, None),
}
#: The same, for A0
AT_A0 = {
    ('step time per multiply-add ÷ stock RepVGG', 'random'): (1.15, 0.95),
    ('bytes saved for backward ÷ stock RepVGG', 'random'): (1.00, 0.65),
    ('bytes saved for backward ÷ stock RepVGG', 'converged'): (1.25, 0.95),
    ("hook's own time ÷ step time", 'random'): (0.01, 0.002),
    ('fused latency ÷ stock RepVGG, both in the better layout', 'fused'): (1.03, 1.00),
    ('fused latency in channels-last ÷ stock RepVGG in the default layout', 'fused'): (0.90, 0.75),
    ('R² of MiB saved for backward over branches', 'random'): (0.98, None),
}


def line(what: str, setting: Setting, gates: str, ratios: Sequence[float]) -> dict:
    """A row. ``gates`` is random, converged or fused; a ratio each draw of the gates, or each repetition."""
    targets = EVERYWHERE | AT_A0 if setting.arch == 'A0' else EVERYWHERE
    must, aim = targets.get((what, gates), (None, None))
    mean = Mean(tuple(ratios))
    return {
        'what': what,
        'setting': str(setting),
        'gates': gates,
        'times': len(ratios),
        'ratio': mean.mean,
        'standard error': mean.error,
        'must reach': must,
        'aim': aim,
    }
