"""Shows a pipeline, a run or a profile to people."""
