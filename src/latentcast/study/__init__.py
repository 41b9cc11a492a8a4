"""Many episodes, and the figures of one: comparisons, filmstrips, model-level simulation."""
