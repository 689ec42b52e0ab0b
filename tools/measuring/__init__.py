"""Shared by the reproduction, the benchmark and the demos: seconds, operations, costs of a config, and tables."""
