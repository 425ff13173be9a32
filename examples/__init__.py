"""Programs to copy from, by the question they answer.

===========================================================  =====================
How does the smallest program look?                          ``basic``
How do several consumers share the work?                     ``multiple_consumers``
How do several producers feed one pipeline?                  ``multiple_producers``
How long is a queue, and how long does one wait in it?       ``checkout_line``
What does a whole job look like, with real input?            ``stdlib_report``
How does work make more work, and when does it end?          ``crawler``
How does a web app hand work to the background?              ``order_service``
What happens at SIGTERM, while nothing comes in?             ``graceful_shutdown``
===========================================================  =====================

Each is a script and a pipeline for the command line::

    python examples/basic.py
    asyncpc run examples.basic:pipeline

``crawler`` and ``order_service`` need httpx, starlette and uvicorn; the others need asyncpc only.
"""
