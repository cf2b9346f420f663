"""Captures of models of full size on a GPU."""
