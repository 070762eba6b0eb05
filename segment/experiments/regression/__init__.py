"""Regression networks, their training, and the experiments that need nothing else."""
