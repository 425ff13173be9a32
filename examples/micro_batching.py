"""Many callers share one call of a model: request and response through a consumer that works in batches.

Each caller awaits the score of its own text. The model gets up to 32 texts at once, or those that came within 5 ms of
the first. A pass takes 10 ms, for one text as for 32. In a web app, the request handlers would be the callers.

Run it::

    python examples/micro_batching.py              or        asyncpc run examples.micro_batching:pipeline

Expect about this; a busy machine adds a little::

      40 calls became  2 batches in 0.03 s
     200 calls became  7 batches in 0.08 s
    1000 calls became 32 batches in 0.34 s
"""

import asyncio
from time import perf_counter

from asyncpc import Batch, Pipeline, Running, consumer, run, source

passes: list[int] = []  # how many texts the model got in each pass


@consumer(batch=Batch(32, within=0.005))
async def score(texts: list[str]) -> list[float]:
    """One result per text, in the same order."""
    passes.append(len(texts))
    await asyncio.sleep(0.010)  # the model
    return [len(text) / 10 for text in texts]


service = Pipeline(score)


@consumer(context=service)  # starts before the first item and drains after the last, as in the lifespan of a web app
async def rush(callers: int, model: Running[str, float]) -> None:
    """So many callers at the same time; each gets the score of its own text."""
    texts = ["x" * n for n in range(callers)]
    passes.clear()
    began = perf_counter()
    scores = await asyncio.gather(*(model.call(text) for text in texts))
    seconds = perf_counter() - began
    assert scores == [len(text) / 10 for text in texts]
    print(f"{callers:4} calls became {len(passes):2} batches in {seconds:.2f} s")


pipeline = source([40, 200, 1000]) >> rush

if __name__ == "__main__":
    run(pipeline)
