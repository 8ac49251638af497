"""The training machine, one for all tasks."""
