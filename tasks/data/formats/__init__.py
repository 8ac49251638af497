"""The layouts of data sets on disk, a module for each."""
