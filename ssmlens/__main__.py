"""`python -m ssmlens`: the command line without its entry point."""

import sys

from ssmlens.cli import main

sys.exit(main())
