"""Edits of the shipped models."""
