"""What watches a run without changing the training, and may end it."""
