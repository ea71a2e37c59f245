"""Methods that add a term to the loss of G or D; a file and a row in train.py each."""
