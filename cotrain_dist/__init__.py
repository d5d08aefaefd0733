"""cotrain_dist: two image classifiers teach each other on unlabeled images."""

__version__ = "0.1.0"
