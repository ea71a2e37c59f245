"""From options to the complete configuration of a run."""
