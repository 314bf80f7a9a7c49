"""Iterators that run ahead in a thread of their own, and a network that can be stopped between two of its layers."""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

from torch import Tensor, nn

T = TypeVar("T")


def in_thread(items: Iterator[T], depth: int, closed: threading.Event | None = None) -> Generator[T]:
    """Iterate in a thread of its own, up to `depth` items ahead; exceptions are raised in the consumer.

    `closed` is set when this generator is closed early.
    """
    closed = closed or threading.Event()
    ready: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    free = threading.Semaphore(depth)

    def work() -> None:
        try:
            for item in items:
                free.acquire()
                if closed.is_set():
                    return
                ready.put(("item", item))
            ready.put(("end", None))
        except BaseException as error:
            ready.put(("error", error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (taken := ready.get())[0] == "item":
            free.release()
            yield taken[1]
        if taken[0] == "error":
            raise taken[1]
    except BaseException:
        closed.set()
        raise
    finally:
        free.release()
        thread.join()


@contextmanager
def stoppable(network: Callable[[Tensor], Tensor], stopped: threading.Event) -> Iterator[None]:
    """Let the network stop between two layers: a batch may take longer than a scheduler's grace period."""

    def check(*_: object) -> None:
        if stopped.is_set():
            raise RuntimeError("the network was stopped")

    modules = network.modules() if isinstance(network, nn.Module) else ()
    hooks = [module.register_forward_pre_hook(check) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
