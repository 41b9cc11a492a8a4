"""Recorded trajectories: the prompts, the store, and the run that fills it."""
