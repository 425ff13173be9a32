"""The engine of ``redis://``; ``broker`` is its adapter."""
