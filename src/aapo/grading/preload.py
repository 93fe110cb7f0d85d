"""Loaded once by the server that workers are forked from, so that a new worker is ready in milliseconds."""

import logging
import os
from contextlib import suppress

from aapo.grading.worker import math_verify_equal

# Ctrl-C and what torchrun sends go to the trainer's group of processes; a worker that ended by it would cost its item.
with suppress(PermissionError):
    os.setsid()
# It warns at every call that its own timeouts, which need signals of the main thread, are off.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)
logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)
# The first parse builds math-verify's grammar.
math_verify_equal(r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}")
math_verify_equal("x^2+1", "1+x^2")
