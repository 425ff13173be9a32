"""Calls and sources that would block the event loop: threads and processes."""
