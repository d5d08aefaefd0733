"""Many trainings for one answer: calibration of the labeled share, reproduction of the paper."""
