"""What `tools/gpu_check.py` runs: trainings that must work, costs of a step, latencies."""
