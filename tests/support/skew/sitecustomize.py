"""A wrong wall clock for authz: with this folder on PYTHONPATH, `time.time` is off by PYTHON_CLOCK_SKEW seconds.

A double for a machine whose clock is wrong: one machine has one clock, and changing it would move every test's. It
moves what Python code asks for; monotonic clocks, Envoy and the bank of the method "cheap" keep the right time.
"""

import os
import sys
import time

if "authz" in sys.orig_argv:
    _SECONDS = float(os.environ.get("PYTHON_CLOCK_SKEW", "0"))
    _right, _right_ns = time.time, time.time_ns
    time.time = lambda: _right() + _SECONDS
    time.time_ns = lambda: _right_ns() + int(_SECONDS * 1_000_000_000)
