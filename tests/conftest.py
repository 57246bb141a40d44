"""Isolation: one thread per worker, and a failure for every test that leaks global state.

LRAT_TEST_THREADS asks for another number of threads, which rounds otherwise.
"""

import os
import signal
import threading
from collections.abc import Iterator

import pytest
import torch

from typechecking import leave_out_functions_in_functions

leave_out_functions_in_functions()
torch.set_num_threads(int(os.environ.get("LRAT_TEST_THREADS", "1")))
if threading.current_thread() is threading.main_thread():
    # A job in a shell's background ignores Ctrl-C, one under nohup a hang-up, and so would every
    # run that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Global random state, grad mode and default dtype are as they were."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(torch.random.get_rng_state(), before), "the global random state was touched"
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() is torch.float32
