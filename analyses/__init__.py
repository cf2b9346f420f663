"""Benchmarks and figures: everything here runs from the checkout and is not installed."""
