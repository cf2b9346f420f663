"""Ways to start a model: the libraries' own draws, mimetic initialisation, a teacher's layer. An init is one file."""
