"""Many episodes: recorded trajectories, two fidelities, metrics, studies and their figures."""
