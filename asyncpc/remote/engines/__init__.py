"""The engines that carry remote queues: each is an adapter of :class:`~asyncpc.remote.broker.Broker` to a client."""
