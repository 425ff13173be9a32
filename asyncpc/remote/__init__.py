"""Remote queues: the same consumers beyond one process."""
