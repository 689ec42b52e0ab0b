"""A line of the benchmark's table: a ratio, its spread, and what it has to reach."""

from collections.abc import Sequence

from ..reproduce.report import Mean

#: (what, which gates) -> (must reach, aim), for A0 on images of 160 pixels in float32
TARGETS = {
    ('step time per multiply-add ÷ stock RepVGG', 'random'): (1.25, 0.95),
    ('step time ÷ naive', 'random'): (0.85, 0.65),
    ('bytes kept ÷ stock RepVGG', 'random'): (1.00, 0.65),
    ('bytes kept ÷ stock RepVGG', 'converged'): (1.25, 0.95),
    ("hook's own time ÷ step time", 'random'): (0.01, 0.002),
    ('fused latency ÷ stock RepVGG, both in the better layout', 'fused'): (1.03, 1.00),
    ('fused latency in channels-last ÷ stock RepVGG in the default layout', 'fused'): (0.90, 0.75),
    ('R² of MiB kept for backward over branches', 'random'): (0.98, None),
}


def line(what: str, arch: str, gates: str, ratios: Sequence[float]) -> dict:
    """A row. ``gates`` is random, converged or fused; a ratio each draw of the gates, or each repetition."""
    must, aim = TARGETS.get((what, gates), (None, None)) if arch == 'A0' else (None, None)
    mean = Mean(tuple(ratios))
    return {
        'what': what,
        'arch': arch,
        'gates': gates,
        'times': len(ratios),
        'ratio': mean.mean,
        'standard error': mean.error,
        'must reach': must,
        'aim': aim,
    }
