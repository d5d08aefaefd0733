"""The edges to the machine: launcher, ranks, collectives, clocks and checkpoints."""
