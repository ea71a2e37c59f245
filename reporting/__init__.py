"""Pages about runs, for a browser: one run, several side by side, all of a folder. Needs no torch."""
