from . import compiled, growth, hook, kept, latency, step
from .networks import Setting

#: What is measured -> lines of the table, from a setting and how many times
MEASURES = {
    'kept': kept.measure,
    'step': step.measure,
    'hook': hook.measure,
    'latency': latency.measure,
    'compiled': compiled.measure,
}

__all__ = ['MEASURES', 'Setting', 'growth']
