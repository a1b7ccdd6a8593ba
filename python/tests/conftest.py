import importlib.util
import os
import signal
import threading
import time

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it


def pytest_collection_modifyitems(items):
    """Tests of another package's code are skipped where it is missing, and say so."""
    for item in items:
        for name in ("torch", "transformers", "jax"):
            if name in item.keywords and importlib.util.find_spec(name) is None:
                item.add_marker(pytest.mark.skip(reason=f"{name} is not installed"))


@pytest.fixture
def others_run():
    """Runs work() and asserts that another thread went on meanwhile, without a long pause."""

    def check(work):
        ticks = []
        over = threading.Event()

        def tick():
            while not over.wait(0.005):
                ticks.append(time.monotonic())

        thread = threading.Thread(target=tick)
        thread.start()
        try:
            work()
        finally:
            over.set()
            thread.join()
        assert len(ticks) > 3
        assert max(b - a for a, b in zip(ticks, ticks[1:])) < 0.5

    return check


@pytest.fixture
def interrupted():
    """Runs work(), and Ctrl-C after a while; how long it then takes to end."""

    def interrupt(work, after=0.2):
        sent = []

        def kill():
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(after, kill)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            work()
        took = time.monotonic() - sent[0]
        timer.join()
        return took

    return interrupt
