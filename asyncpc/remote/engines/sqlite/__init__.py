"""The engine of ``sqlite://``; ``broker`` is its adapter."""
