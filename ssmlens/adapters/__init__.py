"""Adapters: how to read the mixers of each model family. A new family needs one file here and nothing else."""
