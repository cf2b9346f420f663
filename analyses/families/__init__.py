"""Closure of every family on a CPU."""
