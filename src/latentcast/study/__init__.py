"""Many episodes: recorded trajectories, model-level and latent-level simulation, metrics, studies, figures."""
