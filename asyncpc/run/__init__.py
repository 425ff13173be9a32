"""What a stop meets: the supervisor of a run, its accounts, and the handle that the user has of it."""
