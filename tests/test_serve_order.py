"""The order of a queue: fair between clients, the same programs after one another."""

from __future__ import annotations

import itertools
import random

from wanjax.serve.order import OVERTAKEN, PATIENCE, Waiting, in_order


def waiting(*told: str, seconds: float = 10.0) -> list[Waiting]:
    """`ann a` is a job of ann's that needs the programs a."""
    return [
        Waiting(f"{number}", *text.split(), seconds, number) for number, text in enumerate(told)
    ]


def clients(jobs):
    return [job.client for job in jobs]


def programs(jobs):
    return "".join(job.programs for job in jobs)


def test_one_client_of_one_shape_is_served_in_turn():
    jobs = waiting("ann a", "ann a", "ann a")
    assert list(in_order(jobs, {})) == jobs


def test_a_client_that_sends_one_does_not_wait_for_one_that_sends_many():
    jobs = waiting(*["ann a"] * 20, "bob a")
    assert clients(in_order(jobs, {})).index("bob") == 1


def test_the_same_programs_run_after_one_another():
    jobs = waiting("ann a", "ann b", "ann a", "ann b", "ann a")
    assert programs(in_order(jobs, {})) == "aaabb"
    assert programs(in_order(jobs, {}, programs="b")) == "bbaaa"


def test_no_client_gets_further_ahead_than_compiling_is_worth():
    """Of three with shapes of their own, in any order, at every moment."""
    rng = random.Random(0)
    told = [f"{name} {rng.choice('abc')}" for name in ("ann", "bob", "eve") for _ in range(30)]
    rng.shuffle(told)
    seconds, spent = 5.0, dict.fromkeys(("ann", "bob", "eve"), 0.0)
    ordered = list(in_order(waiting(*told, seconds=seconds), {}))
    left = dict.fromkeys(spent, 30)
    for job in ordered:
        spent[job.client] += seconds
        left[job.client] -= 1
        if all(left.values()):
            assert max(spent.values()) - min(spent.values()) <= PATIENCE + seconds
    changes = sum(a.programs != b.programs for a, b in itertools.pairwise(ordered))
    unsorted = sum(a.split()[1] != b.split()[1] for a, b in itertools.pairwise(told))
    assert changes < unsorted / 3


def test_no_job_is_overtaken_for_ever():
    jobs = waiting("ann b", *["ann a"] * 50)
    assert programs(in_order(jobs, {}, programs="a")).index("b") == OVERTAKEN


def test_seconds_that_a_client_has_had_count():
    jobs = waiting("ann a", "ann a", "bob a", "bob a")
    had = {"ann": 100.0, "bob": 0.0}
    assert clients(in_order(jobs, had)) == ["bob", "bob", "ann", "ann"]


def test_all_that_wait_are_in_the_order_once():
    rng = random.Random(1)
    jobs = waiting(*[f"{rng.choice('xyz')} {rng.choice('abcd')}" for _ in range(100)])
    assert sorted(in_order(jobs, {}), key=lambda job: job.number) == jobs
