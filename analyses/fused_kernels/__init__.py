"""Closure of unpatched mamba_ssm layers on a GPU."""
