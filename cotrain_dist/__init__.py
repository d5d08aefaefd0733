"""cotrain_dist: two image classifiers teach each other on unlabeled images."""

import logging

__version__ = "0.1.0"

# Without a handler Python would print errors a second time.
logging.getLogger(__name__).addHandler(logging.NullHandler())
