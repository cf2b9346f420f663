"""Synthetic tasks in which the earlier token that each query must find is known. Each task is one file here."""
