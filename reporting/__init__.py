"""Pages about runs, for a browser: one run, several side by side, or all of a folder. Needs no torch."""
