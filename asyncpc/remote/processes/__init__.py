"""Several processes that run one pipeline, as ``asyncpc run --processes N`` has them, and their parent.

The parent (``parent``) runs no code of the user, so nothing holds up its loop, and it imports none, so new processes
have what is on the disk now. Each child (``spawned`` is the parent's side of it, ``child`` its own) has a pipe
(``pipe``) whose end means drain; so a parent that was killed leaves nobody behind.

The life of a child
-------------------
1. It is spawned, never forked, and is told over the pipe what to run: a password in it is not in the list of processes.
2. It says ``running``. If it ends before that, and never ran in its place, nothing can run: all of it ends.
3. It says ``report`` and ends. If nobody asked it to, or it just died, it has crashed, and another one takes its place
   (``place``) after 1, 2, 4 … 30 seconds; after five crashes of one place within a minute all of it ends.
4. If it was told to drain and is there ``GRACE`` seconds after its time, it is killed.
"""
