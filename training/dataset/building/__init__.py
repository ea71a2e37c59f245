"""What dataset_tool.py does: sources of images are read, converted and written as a data set."""
