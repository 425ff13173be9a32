"""The engine of ``nats://``; ``broker`` is its adapter."""
