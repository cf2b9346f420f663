"""Synthetic tasks with known answers: which earlier token each query must find. A task is one file here."""
