"""A run's models at work: measured and labeling new images."""
