"""Training: a config, a trainee, the loop and its run folder; sweeps of runs, their comparison, transplants."""
