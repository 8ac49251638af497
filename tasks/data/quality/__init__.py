"""What is wrong with a data set, and what is done about it."""
