"""``python -m difftalker``: the same as the command ``difftalker``."""

import sys

from difftalker.cli import main

if __name__ == "__main__":
    sys.exit(main())
