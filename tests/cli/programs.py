"""What programs of several tests of the command line have in common."""

from __future__ import annotations

__all__ = ["NUMBERS"]

NUMBERS = """
import asyncio, time
from asyncpc import Pipeline, consumer, producer, remote_queue

@producer
async def numbers():
    for n in range(10):
        yield n
    print("ready", flush=True)
    await asyncio.Event().wait()

@consumer(on_error="skip")
async def work(n):
    if n == 3:
        raise ValueError("canary")
"""
"""A source that gives ten numbers, says so and waits, and a stage in which one of them fails."""
