"""``python -m asyncpc`` is ``asyncpc``."""

import sys

from .cli import main

sys.exit(main())
