from __future__ import annotations

from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from st_ssl.parts.queue import Queue


def test_it_begins_with_random_directions() -> None:
    torch.manual_seed(0)
    rows = Queue(500, 8).rows
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(500))
    assert rows.mean(0).abs().max() < 0.1


@given(size=st.integers(1, 7), pushes=st.lists(st.integers(0, 16), max_size=6))
def test_it_holds_the_last_rows(size: int, pushes: list[int]) -> None:
    queue = Queue(size, 1)
    expected = deque(queue.rows.flatten().tolist(), maxlen=size)
    number = 100
    for count in pushes:
        new = [float(number + i) for i in range(count)]
        number += count
        queue.push(torch.tensor(new)[:, None])
        expected.extend(new)
    order = (torch.arange(size) + queue.next) % size
    assert queue.rows[order].flatten().tolist() == pytest.approx(list(expected))


def test_all_of_it_is_in_the_state_dict() -> None:
    first, second = Queue(5, 2), Queue(5, 2)
    first.push(torch.ones(3, 2))
    second.load_state_dict(first.state_dict())
    for queue in (first, second):
        queue.push(torch.full((4, 2), 2.0))
    assert torch.equal(first.rows, second.rows)
    assert first.rows.sum(1).tolist() == [4.0, 4.0, 2.0, 4.0, 4.0]
