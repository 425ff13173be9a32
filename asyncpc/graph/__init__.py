"""What a user writes: sources and stages, joined into pipelines."""
