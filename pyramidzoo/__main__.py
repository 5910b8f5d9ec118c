"""Run the command line with `python -m pyramidzoo`."""

import sys

from pyramidzoo.cli import main

sys.exit(main())
