"""The timer, on a clock of its own and once on the real one."""

import mmap
import time

import pytest

from bench import timer


class FakeWorks:
    """Works that take a known time on a clock of their own, and write down who was called."""

    def __init__(self, **seconds):
        self.now, self.calls = 0.0, []
        self.works = {name: lambda name=name, spent=spent: self._run(name, spent) for name, spent in seconds.items()}

    def _run(self, name, spent):
        self.now += spent
        self.calls.append(name)

    def times(self, seconds):
        return timer.take_turns(self.works, seconds, clock=lambda: self.now)


class TestTimer:
    def test_time_is_that_of_one_call(self):
        times = FakeWorks(fast=1e-4, slow=0.05).times(seconds=10)
        assert {name: len(values) for name, values in times.items()} == dict.fromkeys(
            ("fast", "slow"), timer.MAX_ROUNDS
        )
        assert times["fast"] == pytest.approx([1e-4] * timer.MAX_ROUNDS)
        assert times["slow"] == pytest.approx([0.05] * timer.MAX_ROUNDS)

    def test_twice_the_work_has_ratio_two(self):
        times = FakeWorks(once=0.01, twice=0.02).times(seconds=10)
        assert timer.ratio(times["twice"], times["once"]).median == pytest.approx(2)

    def test_works_take_turns_and_the_first_one_changes(self):
        fake = FakeWorks(a=1.0, b=1.0, c=1.0)
        fake.times(seconds=3)
        assert "".join(fake.calls) == "abc" + "aabbcc" + "bbccaa"

    def test_what_the_work_before_left_behind_is_not_timed(self):
        # The first call after another work takes ten times as long.
        fake = FakeWorks(a=0.1, b=0.1)
        run = fake._run
        fake._run = lambda name, spent: run(name, spent if fake.calls[-1:] == [name] else 10 * spent)
        times = fake.times(seconds=10)
        assert times["a"] + times["b"] == pytest.approx([0.1] * 2 * len(times["a"]))

    def test_slow_work_leaves_after_its_share(self):
        fake = FakeWorks(fast=0.05, slow=0.3, slowest=3.0)
        times = fake.times(seconds=1)
        assert times["slow"] == pytest.approx([0.3] * 2)
        assert times["slowest"] == pytest.approx([3.0])
        assert fake.calls.count("slowest") == 1
        assert len(times["fast"]) in (10, 11)  # which of them is a matter of rounding

    def test_ratio_is_taken_round_by_round(self):
        # A machine that slows down tenfold shows in both, and not in the ratio.
        spread = timer.ratio([2.0, 20.0, 2.0, 20.0], [1.0, 10.0, 1.0, 10.0, 99.0])
        assert spread == timer.Spread(2.0, 2.0, 2.0)

    def test_a_single_turn_is_compared_with_the_median(self):
        # The first of our rounds stalled: it was not beside the peer's only turn, and doesn't speak for all.
        assert timer.ratio([8.0], [10.0, 1.0, 1.0]).median == 8
        assert timer.ratio([10.0, 1.0, 1.0], [8.0]).median == 1 / 8

    def test_spread(self):
        assert timer.Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == timer.Spread(3.0, 2.0, 4.0)
        assert timer.Spread.of([7.0]) == timer.Spread(7.0, 7.0, 7.0)

    def test_a_sleep_takes_at_least_its_time(self):
        times = timer.take_turns({"sleep": lambda: time.sleep(0.03)}, seconds=0.1)
        assert min(times["sleep"]) >= 0.03

    def test_device_is_waited_for_at_both_ends_of_a_turn(self):
        # A kernel takes a second of the device, and its launch returns at once.
        now, queue, events = 0.0, 0, []

        def launch():
            nonlocal queue
            queue += 1
            events.append("launch")

        def synchronise():
            nonlocal now, queue
            now, queue = now + queue, 0
            events.append("wait")

        launch()
        times = timer.take_turns({"kernel": launch}, 2, clock=lambda: now, synchronise=synchronise)
        assert set(times["kernel"]) == {1.0}
        assert events == ["launch", *["wait", "launch", "wait"] * (1 + 2 * len(times["kernel"]))]


class TestPageFaults:
    def test_fresh_memory_is_seen(self):
        pages = 256

        def touch():
            with mmap.mmap(-1, pages * mmap.PAGESIZE) as fresh:
                for page in range(pages):
                    fresh[page * mmap.PAGESIZE] = 1

        assert timer.page_faults(touch) >= pages

    def test_used_memory_costs_none(self):
        used = bytearray(2**20)
        assert timer.page_faults(lambda: used.__setitem__(0, 1)) < 16  # those of the interpreter, if any
