"""Ways to distil, one file each; `table` lists them."""
