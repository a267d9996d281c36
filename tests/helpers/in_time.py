"""What a reader may take, in processor time: a busy machine must not decide how a test ends."""

import contextlib
import gc
import time

SECONDS = 2.0


@contextlib.contextmanager
def in_time():
    gc.freeze()  # what other tests left is not the reader's to look through, again and again, for garbage
    try:
        start = time.thread_time()
        yield
        assert time.thread_time() - start < SECONDS
    finally:
        gc.unfreeze()
