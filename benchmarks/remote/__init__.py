"""Remote queues on real servers: asyncpc beside other libraries and the engine's own client."""
