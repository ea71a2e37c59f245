"""A trained generator to play with, in a browser."""
