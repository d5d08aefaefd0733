"""Images: sources, groups on disk, and the keyed stream of batches."""
