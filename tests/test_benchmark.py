"""The benchmark's pairs of ways, with tiny sizes: each pair must come to the same numbers."""

import pytest
import tiny
import torch

from lib.pipeline import benchmark


@pytest.fixture(scope="module")
def views():
    return tiny.views()


def test_processor_has_a_name():
    assert benchmark.processor().strip()


@pytest.mark.parametrize("method", ["contextssl", "simclr"])
def test_training_is_timed_and_its_losses_compared(method, views):
    changes = {} if method == "contextssl" else dict(groups=(), objects_per_step=8, views_per_object=2)
    rates = benchmark.training(tiny.run(method, **changes), views, cores=1, seconds=0.05)
    assert len(rates) == 3 and min(rates) > 0


@pytest.mark.parametrize("way", [benchmark.encoding, benchmark.embedding])
def test_two_ways_over_views_agree(way, views):
    taken, naive, difference = way(tiny.run(), views, seconds=0.05)
    assert taken > 0 and naive > 0 and difference < 1e-4


def test_two_ways_of_probing_agree():
    assert benchmark.probing(tiny.run(), seconds=0.05)[2] < 1e-4


def test_a_difference_between_two_ways_is_an_error():
    with pytest.raises(AssertionError, match="close"):
        benchmark.compared(lambda: torch.zeros(2), lambda: torch.ones(2), seconds=0)


def test_table():
    assert benchmark.markdown(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"
