"""What the server computes: the noise path, and the sources that denoise along it.

Import from the modules: `path` and `source` need NumPy alone, `pipeline` loads torch and diffusers when a
model is loaded.
"""
