"""The benchmark suite: asyncpc beside what users would take instead, ratios first. ``python -m benchmarks --list``."""
