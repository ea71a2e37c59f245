"""Training: the step, its networks, data and methods, and the run that keeps them on disk."""
