"""`python -m nprobot`: the same as the command `nprobot`."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
