"""The training engine: a pure step, the compiled epoch around it, and what keeps a run."""
