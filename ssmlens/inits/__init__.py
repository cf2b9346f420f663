"""Initialisations of a model: the libraries' own, mimetic, a teacher's layer. Each init is one file here."""
