"""The engine of ``postgresql://``; ``broker`` is its adapter."""
