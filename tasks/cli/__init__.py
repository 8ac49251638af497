"""The command line: words to configurations, and one module for each command."""
