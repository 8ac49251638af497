"""The outline of each object: Mask R-CNN on the Faster R-CNN of `tasks.detection`, and its task."""
