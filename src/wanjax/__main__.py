"""`python -m wanjax`: the command line."""

import sys

from wanjax.cli.main import main

sys.exit(main())
