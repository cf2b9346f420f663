"""Families of models: how to read each one's mixers. A family is one file here and nothing else."""
