"""Programs to copy from, by the question they answer.

============================================================  =====================
What does the smallest program look like?                     ``basic``
How do several consumers share the work?                      ``multiple_consumers``
How do several producers feed one pipeline?                   ``multiple_producers``
How does an item go to one of several places, or to all?      ``fan_out``
How long does a queue get, and how long do people wait?       ``checkout_line``
How does an endless source keep to the speed of consumers?    ``random_numbers``
What does a whole job with real input look like?              ``stdlib_report``
How does work create more work, and when does that end?       ``crawler``
How does a web app hand work to the background?               ``order_service``
How is its pipeline watched, and controlled, in a browser?    ``order_dashboard``
How does it finish after a restart what a stop cut short?     ``resume_orders``
How do threads of a server without a loop do that?            ``threaded_server``
Where was an item, and for how long?                          ``traces``
How do a web app and its workers become two programs?         ``order_queue_web``
... and the workers, as many as you like?                     ``order_queue_worker``
How do several processes share a crawl?                       ``shared_crawl``
How do many callers share one call of a model?                ``micro_batching``
How does a client deal with 429, 500 and 400?                 ``api_client``
How do parallel downloads come out in order?                  ``ordered_download``
How does a slow customer delay nobody else?                   ``per_customer``
How are urgent items handled first?                           ``priority_triage``
How does a slow display keep up with a fast sensor?           ``sensor_overflow``
What happens at SIGTERM while no items come in?               ``graceful_shutdown``
How does a thread put items in?                               ``thread_sensor``
How do several processors share the work?                     ``log_pipeline``
How is a large file loaded, in several runs if need be?       ``etl``
============================================================  =====================

Each is a script, and a pipeline for the command line::

    python examples/basic.py
    asyncpc run examples.basic:pipeline

``crawler`` and ``api_client`` need httpx, ``order_service`` and ``resume_orders`` need starlette and uvicorn.
``traces`` needs opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http.
``order_dashboard`` needs fastapi and uvicorn.
``order_queue_web``, ``order_queue_worker`` and ``shared_crawl`` need ``asyncpc[remote]``; the first needs starlette and
uvicorn too, and the last httpx. The others need only asyncpc.
"""
