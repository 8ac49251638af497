"""From files and samples to padded batches in order."""
