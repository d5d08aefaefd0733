"""`python -m cotrain_dist`, and what launchers start with `-m cotrain_dist`."""

import sys

from cotrain_dist.cli.main import main

sys.exit(main())
