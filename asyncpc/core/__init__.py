"""What every item goes through: queues, stages, workers. Knows no option, no thread, no screen and no broker."""
