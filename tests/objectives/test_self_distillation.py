from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from st_ssl.objectives.self_distillation import categories, entropy, self_distillation
from tests.ddp import run_ranks


def drawn(views: int = 5, seen: int = 2, rows: int = 3, count: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(rows, views, count, dtype=torch.float64, generator=generator)
    teacher = torch.randn(rows, seen, count, dtype=torch.float64, generator=generator)
    centre = torch.randn(count, dtype=torch.float64, generator=generator)
    return student.requires_grad_(), teacher.requires_grad_(), centre


def slow(student: Tensor, teacher: Tensor, centre: Tensor, cold: float, colder: float) -> Tensor:
    """Equation by equation: one pair of views after the other."""
    terms = []
    for row in range(len(student)):
        for g in range(teacher.shape[1]):
            shares = [math.exp(float(s) / colder) for s in teacher[row, g].detach() - centre]
            for v in range(student.shape[1]):
                if v != g:
                    others = torch.log(torch.exp(student[row, v] / cold).sum())
                    logs = [score / cold - others for score in student[row, v]]
                    terms.append(
                        -sum((p / sum(shares) * q for p, q in zip(shares, logs, strict=True)), torch.zeros(()))
                    )
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("views", "seen"), [(2, 1), (2, 2), (5, 2)])
@pytest.mark.parametrize(("cold", "colder"), [(0.1, 0.04), (1.0, 0.5)])
def test_value_and_gradient_of_the_slow_reference(views: int, seen: int, cold: float, colder: float) -> None:
    (student, teacher, centre), (again, _, _) = drawn(views, seen), drawn(views, seen)
    loss = self_distillation(student, teacher, centre, cold, colder)
    expected = slow(again, teacher, centre, cold, colder)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(student.grad, again.grad, rtol=1e-8, atol=1e-12)
    assert teacher.grad is None


def test_known_limits() -> None:
    count = 8
    nothing = torch.zeros(2, 3, count)
    loss = self_distillation(nothing, nothing[:, :2], torch.zeros(count))
    assert loss.item() == pytest.approx(math.log(count), rel=1e-6)  # both say nothing
    sure = torch.zeros(1, 2, count)
    sure[..., 3] = 100.0
    assert self_distillation(sure, sure, torch.zeros(count)).item() == pytest.approx(0.0, abs=1e-6)
    # A category that all samples have is taken off by the centre.
    shares = categories(sure, sure[0, 0], 0.04)
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / count))
    torch.testing.assert_close(entropy(shares), torch.full((1, 2), math.log(count)))
    assert entropy(categories(sure, torch.zeros(count), 0.04)).abs().max() < 1e-6


def test_a_view_is_not_compared_with_itself() -> None:
    student, teacher, centre = drawn(2, 1)
    loss = self_distillation(student, teacher, centre)
    (grad,) = torch.autograd.grad(loss, student)
    assert (grad[:, 0] == 0).all() and (grad[:, 1] != 0).any()


@pytest.mark.parametrize(("views", "seen"), [(1, 1), (2, 3), (2, 0)])
def test_views_that_make_no_pairs_are_refused(views: int, seen: int) -> None:
    with pytest.raises(ValueError, match=rf"{views} views of the student and {seen} of the teacher make no pairs"):
        self_distillation(torch.zeros(2, views, 3), torch.zeros(2, seen, 3), torch.zeros(3))


def test_half_precision_is_taken_in_float32() -> None:
    student, teacher, centre = (x.detach().half() for x in drawn())
    with torch.autocast("cpu", torch.bfloat16):
        loss = self_distillation(student, teacher, centre)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, self_distillation(student.float(), teacher.float(), centre.float()))


def halves(rank: int, world_size: int) -> tuple[Tensor, Tensor]:
    student, teacher, centre = drawn(rows=4)
    own = slice(rank * 2, rank * 2 + 2)
    loss = self_distillation(student[own], teacher[own], centre)
    loss.backward()
    assert student.grad is not None
    return loss.detach(), student.grad / world_size


@pytest.mark.ddp
def test_two_processes_are_one(tmp_path: Path) -> None:
    student, teacher, centre = drawn(rows=4)
    loss = self_distillation(student, teacher, centre)
    loss.backward()
    parts = run_ranks(halves, 2, tmp_path)
    torch.testing.assert_close(sum(part[0] for part in parts) / 2, loss.detach())
    torch.testing.assert_close(sum(part[1] for part in parts), student.grad)
