"""How many images a search may execute."""

import random

from ambient_sweep.sweep.search.budget import Budget


def test_a_budget_is_spent_by_what_was_executed() -> None:
    budget = Budget(100, {"before": 30})
    assert (budget.spent, budget.executed) == (False, 30)
    budget.begin("a", 1000)  # it may be stopped at any evaluation: what it trains counts when it is trained
    budget.report("a", 20)
    budget.report("a", 69)
    assert not budget.spent
    budget.report("a", 70)
    assert budget.spent
    budget.ended("a")
    assert (budget.spent, budget.executed) == (True, 100)

    endless = Budget()
    endless.begin("a", 10**12)
    endless.report("a", 10**12)
    assert not endless.spent


def test_trials_that_run_to_their_ends_count_whole_from_their_begin() -> None:
    budget = Budget(100, whole=True)
    budget.begin("a", 60)
    assert not budget.spent
    budget.begin("b", 50)
    assert budget.spent
    budget.report("b", 20)
    assert budget.spent, "30 are to come"
    budget.ended("b")
    assert not budget.spent, "b is over, having trained 20: 80 are accounted for"
    budget.begin("c", 20)
    assert budget.spent


def test_sums_are_those_of_the_last_reports() -> None:
    rng, last = random.Random(3), dict[str, int]()
    budget = Budget(10_000)
    for _ in range(2000):
        trial = f"t{rng.randrange(20)}"
        last[trial] = last.get(trial, 0) + rng.randrange(20)
        budget.report(trial, last[trial])
        assert budget.executed == sum(last.values())
        assert budget.spent == (sum(last.values()) >= 10_000)
