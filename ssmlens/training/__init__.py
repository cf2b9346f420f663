"""Training: configs, trainees, the loop and its run folder; sweeps and transplants."""
