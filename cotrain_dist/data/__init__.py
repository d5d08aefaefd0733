"""Images: sources, splits on disk, and the keyed stream of batches."""
