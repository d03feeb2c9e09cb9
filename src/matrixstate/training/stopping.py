"""Graceful stopping: the first SIGINT or SIGTERM asks for a stop, a second one ends the process at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Raised where a signal stopped work that has no result to return."""

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal


class Stop:
    """True once a signal has asked for a stop."""

    signal: int | None = None
    """The signal's number."""

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stopping() -> Iterator[Stop]:
    """A context in which the first SIGINT or SIGTERM only sets the `Stop`; a second one ends the process at once.

    The earlier handlers are restored at the end. Outside the main thread, where Python delivers no signals, nothing is
    ever set.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request_stop(number: int, _: object) -> None:
        stop.signal = number
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)  # of the operating system: ends the process

    before = {each: signal.signal(each, request_stop) for each in SIGNALS}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
