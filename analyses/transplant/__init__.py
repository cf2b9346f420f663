"""Which layer of a trained model is a good initialisation for others?"""
