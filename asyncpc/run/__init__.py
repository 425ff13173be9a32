"""What runs a pipeline: the supervisor of a run, its accounts, its report, and the handle that its user gets.

This table says who may start what; a test reads it and finds any other module that does::

    tasks         run.supervisor, remote.session, remote.opened, remote.processes.parent, remote.processes.spawned,
                  remote.contract, remote.engines.nats.broker, remote.engines.rabbitmq.link,
                  remote.engines.rabbitmq.suspects
    threads       offload.threads, offload.sources, offload.child, remote.processes.child, cli.failed, cli.web, live,
                  run.telling, testing.clock, web.app, web.feed
    processes     offload.processes, remote.processes.spawned, cli.reload
    interpreters  offload.interpreters
    loops         runner, testing.clock

An owner waits for the end of everything it has started, or names in the report what it could not end. Other modules ask
the owner for a task, thread or process. A new owner needs a line here, and a test that shows that nothing is left when
the run returns. The tasks of a session (``remote``) live inside one that the supervisor, or a block of
``queue.open()``, has started; those of an engine end before its connection is closed; those of the contract, and what
``testing`` starts, belong to tests. No run waits for the thread of ``live``, which only draws, and is told to end, nor
for one of ``run.telling``, which answers one signal. Those of ``web`` ask runs for what the page shows, and end with
the loop of its server.
"""
