"""What lies on disk: a run's directory, its records, its commits."""
