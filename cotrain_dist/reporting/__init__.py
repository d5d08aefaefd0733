"""What a run tells: history, progress, tables and the run directory."""
