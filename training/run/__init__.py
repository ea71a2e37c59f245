"""A run on disk: its folder, records, states, model card, and how it continues, forks and recovers."""
