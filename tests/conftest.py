"""A run of the tests comes to its end, is the same whoever started it, and leaves no records.

Three limits, each for what the one before cannot end: `timeout` fails a test that waits,
`faulthandler_timeout` ends a process whose test does not come back from that (pyproject.toml), and
the one here ends a process whose tests are over but which waits for a thread that one of them left.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import sys
import tempfile
from typing import Final

END_SECONDS: Final = 20.0
"""How long the interpreter may take to end after the last test."""

_state = ""  # a directory in the place of the user's, for records of the clusters of tests


def pytest_configure() -> None:
    """Start programs with signals as at a terminal: `nohup` and `&` have some of them ignored.

    A program inherits what its parent ignores, but not what its parent handles. SIGINT ends the
    tests in order also where a shell has started them with ``&``, as `.ci/tests` does.
    """
    global _state
    _state = os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="bigmachine-tests-")
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A run that takes too long is terminated: then it shows where it is.
    faulthandler.register(signal.SIGTERM, file=os.dup(2), chain=True)


def pytest_unconfigure() -> None:
    """Show where the threads are and give up when they keep the interpreter from ending."""
    shutil.rmtree(_state, ignore_errors=True)
    faulthandler.dump_traceback_later(END_SECONDS, file=sys.__stderr__, exit=True)
