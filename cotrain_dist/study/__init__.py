"""Many trainings for one answer: calibration of the labeled fraction, reproduction of the paper."""
