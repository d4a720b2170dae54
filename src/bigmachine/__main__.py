"""``python -m bigmachine``: the same as the command ``bigmachine``."""

import sys

from bigmachine.cli import main

if __name__ == "__main__":
    sys.exit(main())
