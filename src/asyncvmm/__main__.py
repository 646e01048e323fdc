"""``python -m asyncvmm``: the command line without its script."""

import sys

from asyncvmm.cli import main

if __name__ == "__main__":
    sys.exit(main())
