"""One file for each command; `cotrain-dist --help` finds them here."""
