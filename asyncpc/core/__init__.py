"""What an item meets on its way: queues, stages, workers. Knows no option, no thread, no screen and no broker."""
