"""Programs to copy from, by the question they answer.

===========================================================  =====================
How does the smallest program look?                          ``basic``
How do several consumers share the work?                     ``multiple_consumers``
How do several producers feed one pipeline?                  ``multiple_producers``
How does an item go to one of several places, or to each?    ``fan_out``
How long is a queue, and how long does one wait in it?       ``checkout_line``
What does a whole job look like, with real input?            ``stdlib_report``
How does work make more work, and when does it end?          ``crawler``
How does a web app hand work to the background?              ``order_service``
How do many callers share one call of a model?               ``micro_batching``
How does a client live with 429, 500 and 400?                ``api_client``
How do results leave in order, worked on side by side?       ``ordered_download``
How does a slow customer hold up only himself?               ``per_customer``
How is what is urgent handled first?                         ``priority_triage``
How does a slow reader keep up with a fast sensor?           ``sensor_overflow``
What happens at SIGTERM, while nothing comes in?             ``graceful_shutdown``
How do items come in from a thread?                          ``thread_sensor``
How do several processors share the work?                    ``log_pipeline``
===========================================================  =====================

Each is a script and a pipeline for the command line::

    python examples/basic.py
    asyncpc run examples.basic:pipeline

``crawler``, ``api_client`` and ``order_service`` need httpx, starlette and uvicorn; the others need asyncpc only.
"""
