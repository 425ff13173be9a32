"""Engines that carry remote queues, one file each: the adapter of :class:`~asyncpc.remote.broker.Broker` to a client."""
