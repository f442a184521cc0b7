"""``python -m bnsweep`` is ``bnsweep``."""

import sys

from bnsweep.cli import main

if __name__ == "__main__":
    sys.exit(main())
