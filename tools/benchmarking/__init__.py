"""The benchmark: training and inference beside stock RepVGG and a naive block; `tools/benchmark.py` runs it."""

from . import bytes_saved, compiled_latency, compiled_step, fused_latency, hook_time, step_time

#: Name on the command line -> lines of the table, from a setting and how many times
MEASURES = {
    'kept': bytes_saved.measure,
    'step': step_time.measure,
    'hook': hook_time.measure,
    'latency': fused_latency.measure,
    'compiled': compiled_latency.measure,
    'compiled-step': compiled_step.measure,
}
