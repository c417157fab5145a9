"""What a process that serves is set to, once, where it starts."""

from __future__ import annotations

import sys

from wanjax.config.keys import Config
from wanjax.serve.logs import log_to_stderr

# Of Python's threads. One that traces a program would else let a video's wait for 5 ms each time
# that it comes back from the device, which is dozens of times a step.
_TURN = 0.0005


def settle(config: Config) -> None:
    """Its log goes to stderr, and its threads take short turns."""
    log_to_stderr(config.log)
    sys.setswitchinterval(_TURN)
