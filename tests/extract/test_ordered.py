"""Results in order, whatever the threads do: bounded, errors where they belong, no thread left."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from speechssl.extract.decode import ahead
from speechssl.extract.machine.ordered import InOrder


def collect(order, workers, limit=None):
    with order.running(workers, name="test"):
        return list(itertools.islice(order, limit))


def left():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("test-", "read-ahead-"))]


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("most", [1, 3, 100])
def test_results_are_in_the_order_of_the_tasks(workers, most):
    rng = np.random.default_rng(0)
    pauses = rng.uniform(0, 0.003, size=60).tolist()

    def work(index, task):
        time.sleep(pauses[task])
        return index, task

    assert collect(InOrder(iter(range(60)), ahead=most), [work] * workers) == [(n, n) for n in range(60)]
    assert collect(InOrder(iter(()), ahead=most), [work] * workers) == []
    assert left() == []


def test_every_worker_takes_part_and_does_one_task_at_a_time():
    both = threading.Barrier(2, timeout=10)
    busy = [0, 0]

    def worker(number):
        def work(index, task):
            busy[number] += 1
            assert busy[number] == 1
            both.wait()
            busy[number] -= 1
            return number

        return work

    assert set(collect(InOrder(iter(range(10)), ahead=4), [worker(0), worker(1)])) == {0, 1}


def test_no_more_tasks_are_begun_than_may_wait():
    begun, seen = [], []
    order = InOrder(iter(range(30)), ahead=4)

    def work(index, task):
        begun.append(task)
        return task

    with order.running([work] * 3, name="test"):
        for result in order:
            time.sleep(0.002)
            seen.append(len(begun) - 1 - result)
    assert max(seen) <= 4
    assert max(seen) >= 3  # they do run ahead


def test_tasks_are_read_one_at_a_time():
    inside = threading.Lock()

    def tasks():
        for number in range(50):
            assert inside.acquire(blocking=False)
            time.sleep(0.0005)
            inside.release()
            yield number

    assert collect(InOrder(tasks(), ahead=8), [lambda _, task: task] * 4) == list(range(50))


def test_an_error_comes_in_its_place_and_ends_the_work():
    begun = []

    def work(index, task):
        begun.append(task)
        time.sleep(0.01 if task < 5 else 0.0)
        return 60 // (5 - task)

    order = InOrder(iter(range(1000)), ahead=3)
    with order.running([work] * 2, name="test"):
        results = iter(order)
        assert [next(results) for _ in range(5)] == [12, 15, 20, 30, 60]
        with pytest.raises(ZeroDivisionError):
            next(results)
    assert len(begun) < 12
    assert left() == []


def test_earlier_results_come_before_an_error():
    def tasks():
        yield from range(3)
        raise OSError("gone")

    order = InOrder(tasks(), ahead=8)

    def work(index, task):
        time.sleep(0.02)
        return task

    with order.running([work] * 4, name="test"):
        results = iter(order)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(OSError, match="gone"):
            next(results)


def test_who_stops_early_leaves_no_thread_and_no_further_task():
    begun = []

    def work(index, task):
        begun.append(task)
        return task

    assert collect(InOrder(itertools.count(), ahead=5), [work] * 2, limit=3) == [0, 1, 2]
    assert left() == []
    assert len(begun) <= 3 + 5
    order = InOrder(itertools.count(), ahead=5)
    with pytest.raises(KeyError), order.running([work] * 2, name="test"):
        raise KeyError
    assert left() == []
    assert len(list(order)) <= 5  # what was made before; no endless wait


def test_a_stopped_worker_does_not_begin_what_it_was_reading():
    reading, released, begun = threading.Event(), threading.Event(), []

    def tasks():
        yield 0
        reading.set()
        released.wait(10)
        yield 1

    order = InOrder(tasks(), ahead=5)
    with order.running([lambda _, task: begun.append(task)], name="test", wait=False):
        next(iter(order))
        assert reading.wait(10)
    released.set()
    while left():
        time.sleep(0.001)
    assert begun == [0]


def test_the_budget_holds_but_for_the_result_that_is_asked_for():
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 40, size=200).tolist()
    sizes[100] = 500  # more than the budget
    order = InOrder(iter(sizes), ahead=50, budget=100)

    def work(index, size):
        order.reserve(size, index=index)
        return size

    found = []
    with order.running([work] * 4, name="test"):
        for size in order:
            found.append(size)
            assert order.held <= 100 + 500
            order.release(size)
    assert found == sizes
    assert order.held == 0
    assert 100 - 40 < order.most_held <= 100 + 500


def test_a_worker_that_waits_for_the_budget_ends_when_the_work_is_stopped():
    order = InOrder(iter([60, 60, 60]), ahead=50, budget=100)
    waits = threading.Event()

    def work(index, size):
        if index == 2:
            waits.set()
        order.reserve(size, index=index)
        return size

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(collect, order, [work] * 3, 1).result(timeout=10) == [60]
    assert left() == []


def test_reading_ahead_gives_the_blocks_and_the_error():
    blocks = [np.full(4, number, np.float32) for number in range(20)]
    assert [int(block[0]) for block in ahead(lambda: iter(blocks))] == list(range(20))

    def broken():
        yield blocks[0]
        raise ValueError("damaged")

    reader = ahead(broken)
    assert next(reader) is blocks[0]
    with pytest.raises(ValueError, match="damaged"):
        next(reader)
    read = []

    def noted():
        for block in blocks:
            read.append(block)
            yield block

    reader = ahead(noted)
    next(reader)
    reader.close()
    assert left() == []
    assert len(read) <= 4
