"""OpenTelemetry: traces of items, and counters: ``pip install 'asyncpc[otel]'``.

::

    trace(pipeline, sample=0.01)     # a span for each stage that one item of a hundred goes through
    Metrics().watch(pipeline)        # counters, read when OpenTelemetry asks for them
    pipeline.listen(OtelListener())  # what happens, as log records
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..checks import check_callback
from ..errors import DefinitionError
from ..graph.pipeline import Pipeline, follow, plan_of
from ..wording import shown

try:
    from opentelemetry.trace import TracerProvider, get_tracer
except ImportError as _missing:
    raise ImportError("asyncpc.otel needs opentelemetry-api: pip install 'asyncpc[otel]'") from _missing

from .events import OtelListener
from .following import Followed
from .metrics import Metrics
from .sampling import Sampler
from .spans import Spans

__all__ = ["Metrics", "OtelListener", "trace"]


def trace(
    pipeline: Pipeline[Any, Any],
    *,
    sample: float | Callable[[Any], bool] = 0.01,
    tracer_provider: TracerProvider | None = None,
    errors: bool = False,
) -> None:
    """Make a span for each stage that a sampled item goes through, in the runs of ``pipeline`` that begin from now on.

    The first span of an item begins a trace, and that of each later stage is a child of the one before: through
    queues, branches, generators and batches, threads and processes, ``feed`` and remote queues. A handler sees its
    span as the current one, so what its libraries trace is part of it. Items of one batch keep their own traces, which
    are linked with each other.

    ``sample``
        Which items are traced: a share of them, or a function of an item. It is asked where an item comes in; one that
        is not sampled carries nothing. An item that is put while a span is current, or whose message brings a trace
        context, is traced if that trace is sampled, and belongs to it.
    ``tracer_provider``
        Makes the spans; by default the global one.
    ``errors``
        Whether spans show messages and tracebacks of errors, which may hold what your users have sent. By default they
        show the type of an error only.

    Raises ``DefinitionError`` for a share outside 0 to 1.
    """
    where = f"trace({plan_of(pipeline).name!r})"
    if callable(sample):
        check_callback(where, "sample", sample, "a share from 0 to 1, or a function of an item")
    elif isinstance(sample, bool) or not isinstance(sample, (int, float)) or not 0 <= sample <= 1:
        raise DefinitionError(f"{where}: sample={shown(sample)} must be a share from 0 to 1, or a function of an item")
    tracer = get_tracer("asyncpc", tracer_provider=tracer_provider)
    follow(pipeline, Followed(Sampler(sample), Spans(tracer, plan_of(pipeline).name, errors)))
