"""`python -m memdash` is `memdash`."""

from __future__ import annotations

import sys

from memdash.commands import main

sys.exit(main())
