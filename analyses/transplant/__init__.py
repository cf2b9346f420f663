"""Which layer of a trained model is a good start for others."""
