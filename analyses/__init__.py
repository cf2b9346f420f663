"""Benchmarks, experiments and figures. They run from the checkout and are not installed."""
