"""Many callers at once, one call of the model for many: request and response through a consumer that works in batches.

Each caller awaits the score of his own text. The model sees up to 32 texts at once, or as many as came within 5 ms of
the first; one pass costs it 10 ms, whether for one text or for 32. In a web app, the handler would be the caller.

Run it::

    python examples/micro_batching.py              or        asyncpc run examples.micro_batching:pipeline

Expect, give or take what the clock of a busy machine adds::

      40 calls became  2 batches in 0.03 s
     200 calls became  7 batches in 0.08 s
    1000 calls became 32 batches in 0.34 s
"""

import asyncio
from time import perf_counter

from asyncpc import Batch, Pipeline, Running, consumer, run, source

passes: list[int] = []  # how many texts each pass of the model had


@consumer(batch=Batch(32, within=0.005))
async def score(texts: list[str]) -> list[float]:
    """One result per text, in their order."""
    passes.append(len(texts))
    await asyncio.sleep(0.010)  # the model
    return [len(text) / 10 for text in texts]


service = Pipeline(score)


@consumer(context=service)  # started before the first item, drained after the last, as a web app's lifespan would
async def rush(callers: int, model: Running[str, float]) -> None:
    """So many callers at the same time; each gets the score of his own text."""
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
