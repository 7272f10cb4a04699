"""Exit codes of the commands; 0 is success, 1 a failure that the command reports itself."""

from __future__ import annotations

USAGE_ERROR = 2
DIVERGED = 3
UNAVAILABLE = 69  # sysexits.h: a service that the run needs is gone
PREEMPTED = 75  # sysexits.h: try again later
