"""The engine of ``amqp://``; ``broker`` is its adapter."""
