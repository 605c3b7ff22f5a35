"""The pool of pipes: bounded, reused when empty, closed when not."""

import os
import resource

from fwproxy.datapath.pipes import PipePool

SIZE = 64 * 1024


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_pool_gives_no_more_than_it_may():
    pool = PipePool(2, SIZE)
    first, second = pool.take(), pool.take()
    assert pool.take() is None
    assert pool.in_use == 2
    pool.give_back(first)
    assert pool.take() is first
    for pipe in (first, second):
        pool.give_back(pipe)
    pool.close()
    assert pool.in_use == 0
    assert not is_open(first.reader)
    assert not is_open(second.writer)


def test_a_pool_of_nothing_gives_nothing():
    assert PipePool(0, SIZE).take() is None


def test_a_pipe_that_holds_bytes_is_not_used_again():
    pool = PipePool(1, SIZE)
    pipe = pool.take()
    os.write(pipe.writer, b"left")
    pipe.level = 4
    pool.give_back(pipe)
    assert not is_open(pipe.reader)
    other = pool.take()
    assert other is not pipe
    assert other.level == 0
    pool.give_back(other)
    pool.close()


def test_only_so_many_pipes_are_spare():
    pool = PipePool(8, SIZE, max_spare=2)
    pipes = [pool.take() for _ in range(8)]
    for pipe in pipes:
        pool.give_back(pipe)
    assert [is_open(pipe.reader) for pipe in pipes].count(True) == 2
    pool.close()
    assert not any(is_open(pipe.reader) for pipe in pipes)


def test_a_pipe_is_as_big_as_the_kernel_grants():
    pool = PipePool(2, SIZE)
    pipe = pool.take()
    assert pipe.size >= SIZE
    assert not os.get_blocking(pipe.reader)
    assert not os.get_inheritable(pipe.writer)
    pool.give_back(pipe)
    pool.close()
    beyond_all_limits = PipePool(1, 1 << 31)
    pipe = beyond_all_limits.take()
    assert 0 < pipe.size < 1 << 31
    beyond_all_limits.give_back(pipe)
    beyond_all_limits.close()


def test_without_descriptors_there_is_no_pipe():
    pool = PipePool(2, SIZE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        assert pool.take() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert pool.in_use == 0
