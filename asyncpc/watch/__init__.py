"""What shows a pipeline, a run or a profile to people."""
