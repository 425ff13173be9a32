"""The engine of ``memory://``; ``broker`` is its adapter."""
