"""Limits in seconds of the processor: import this before `tnkit`, whose deadlines then count them.

On a machine that others use too, equal seconds of the clock are not equal work. For one process on one thread.

Example:
    >>> import time
    >>> time.monotonic is time.process_time
    True
"""

import time

time.monotonic = time.perf_counter = time.process_time
