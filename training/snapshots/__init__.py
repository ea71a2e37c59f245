"""Networks in files: snapshots, pickles of StyleGAN2-ADA in both directions, the Hub."""
