"""A page that shows runs while they are under way, and controls them: ``pip install 'asyncpc[web]'``.

::

    app.mount("/pipelines", dashboard(orders, token=os.environ["PIPELINES_TOKEN"]))

``asyncpc run app:pipeline --web 8000`` serves the same page from a thread of its own.
"""

from __future__ import annotations

from .dashboard import dashboard

__all__ = ["dashboard"]
