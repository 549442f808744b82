"""Measurements against the limits of the machine and against other libraries. They never assert a time."""
