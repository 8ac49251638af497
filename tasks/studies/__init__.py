"""Studies that the suite serves."""
