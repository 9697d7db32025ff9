from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from st_ssl.data.base import Batch
from st_ssl.data.loading.loader import build_loader
from st_ssl.data.loading.sample_order import Order, SampleKey, StepSampler

ORDERS = st.integers(1, 40).flatmap(
    lambda n: st.builds(Order, seed=st.integers(0, 2**40), num_samples=st.just(n), batch_size=st.integers(1, n))
)


@given(ORDERS, st.integers(0, 3))
def test_a_pass_takes_each_sample_at_most_once(order: Order, epoch: int) -> None:
    steps = range(epoch * order.steps_per_pass, (epoch + 1) * order.steps_per_pass)
    keys = [key for step in steps for key in order.step(step)]
    assert {e for e, *_ in keys} == {epoch}
    indices = [key[1] for key in keys]
    assert len(indices) == len(set(indices)) == order.num_samples // order.batch_size * order.batch_size
    assert set(indices) <= set(range(order.num_samples))


def test_passes_and_seeds_differ() -> None:
    orders = [Order(seed, 50, 50).step(epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(key[1] for key in keys) for keys in orders}) == 4


def test_every_sample_is_left_out_now_and_then() -> None:
    order = Order(0, num_samples=10, batch_size=8)
    used = [{key[1] for key in order.step(epoch)} for epoch in range(60)]
    left_out = np.zeros(10)
    for indices in used:
        left_out[list(set(range(10)) - indices)] += 1
    assert left_out.min() > 0
    assert left_out.sum() == 120


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 30))
def test_ranks_partition_the_batch_in_order(world: int, share: int, start: int) -> None:
    order = Order(3, num_samples=23, batch_size=world * share)
    ranks = [list(StepSampler(order, start, start + 4, rank, world)) for rank in range(world)]
    for step, parts in zip(range(start, start + 4), zip(*ranks, strict=True), strict=True):
        assert [key for part in parts for key in part] == order.step(step)
        assert {len(part) for part in parts} == {share}


@given(ORDERS, st.integers(0, 20), st.integers(0, 20))
def test_any_start_gives_the_tail_of_the_whole(order: Order, start: int, length: int) -> None:
    sampler = StepSampler(order, start, start + length)
    assert len(sampler) == length
    assert list(sampler) == list(StepSampler(order, 0, start + length))[start:]


class Squares(Dataset[int]):
    def __getitem__(self, key: SampleKey) -> int:
        return key[0] * 1000 + key[1]


def collate(samples: list[int]) -> Batch:
    return Batch([], torch.tensor(samples), torch.tensor(samples), [])


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_arrive_in_order_for_any_number_of_workers(num_workers: int) -> None:
    order = Order(5, num_samples=11, batch_size=3)
    batches = list(build_loader(Squares(), StepSampler(order, 2, 9), collate, num_workers))
    expected = [[key[0] * 1000 + key[1] for key in order.step(step)] for step in range(2, 9)]
    assert [batch.indices.tolist() for batch in batches] == expected
