"""What a stop meets: the supervisor of a run, its accounts, and the handle that the user has of it.

Who may own what runs beside its caller; a test reads this table and finds every other maker::

    tasks      run.supervisor
    threads    offload.threads, offload.sources, offload.child, offload.interpreters
    processes  offload.processes
    loops      runner

An owner waits for the end of all that it has made, or names in the report what could not be ended. A task, thread or
process that somebody else needs is asked of its owner; a new owner is a new line here, with a test that shows that
nothing is left when the run returns.
"""
