"""Stopping when asked to: the first signal is noted, the second ends the process at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal, by its number, ended what cannot simply return."""

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal


class Stop:
    """Whether, and by which signal, the process was asked to stop."""

    signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stopping() -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM only sets the stop; a second one has the system's effect, at once.

    Outside the main thread, where no signal arrives, nothing is ever set.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, _: object) -> None:
        stop.signal = number
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    before = {each: signal.signal(each, note) for each in SIGNALS}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
