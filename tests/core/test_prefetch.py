"""Prefetching in a thread: the same items, one more at a time, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from contextvars import ContextVar

import pytest
import torch

from difftalker.core.prefetch import prefetch


def test_items_come_in_order_and_are_made_elsewhere() -> None:
    places = list(prefetch(threading.get_ident() for _ in range(3)))
    assert len(set(places)) == 1
    assert places[0] != threading.get_ident()
    assert list(prefetch(iter(range(100)))) == list(range(100))
    assert list(prefetch(iter([]))) == []
    assert list(prefetch(iter([None, False]))) == [None, False]


def test_one_item_is_made_while_another_is_in_use() -> None:
    begun: list[int] = []
    second = threading.Event()

    def made() -> Iterator[int]:
        for number in range(4):
            begun.append(number)
            if number == 1:
                second.set()
            yield number

    with closing(prefetch(made())) as items:
        assert next(items) == 0
        assert second.wait(10)
    assert begun == [0, 1]


def test_an_error_comes_where_the_item_would() -> None:
    def made() -> Iterator[int]:
        yield 1
        raise ValueError("second")

    items = prefetch(made())
    assert next(items) == 1
    with pytest.raises(ValueError, match="second"):
        next(items)


def test_closing_waits_for_the_item_at_work() -> None:
    done = threading.Event()
    go_on = threading.Event()

    def made() -> Iterator[int]:
        yield 0
        go_on.wait(10)
        done.set()
        yield 1

    threads = threading.active_count()
    with closing(prefetch(made())) as items:
        next(items)
        go_on.set()
    assert done.is_set()
    assert threading.active_count() == threads


def test_the_thread_has_the_callers_context() -> None:
    name: ContextVar[str] = ContextVar("name", default="nobody's")
    name.set("the caller's")
    assert list(prefetch(name.get() for _ in range(2))) == ["the caller's"] * 2
    nested = prefetch(one for one in prefetch(name.get() for _ in range(2)))
    assert list(nested) == ["the caller's"] * 2


def test_the_thread_computes_with_as_many_threads_as_the_caller() -> None:
    own = torch.get_num_threads()
    other = threading.Thread(target=torch.set_num_threads, args=(own + 3,))
    other.start()
    other.join()
    try:
        assert list(prefetch(torch.get_num_threads() for _ in range(2))) == [own, own]
    finally:
        torch.set_num_threads(own)
