"""One module for each client: who takes part on an engine, and how its users would do the round's work."""
