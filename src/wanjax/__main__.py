"""`python -m wanjax`: the command line."""

import sys

from wanjax.cli import main

sys.exit(main())
