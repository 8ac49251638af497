"""Object detection: detectors, their arithmetic and their task."""
