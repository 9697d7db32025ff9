"""Self-distillation: a student finds the categories that a teacher sees in other views of the same sample."""

from __future__ import annotations

import torch
from torch import Tensor


def self_distillation(
    student: Tensor,
    teacher: Tensor,
    centre: Tensor,
    student_temperature: float = 0.1,
    teacher_temperature: float | Tensor = 0.04,
) -> Tensor:
    """The loss of DINO (Caron et al., ICCV 2021), a scalar: the cross-entropy of categories that no label names.

    ``student`` [B, V, K] and ``teacher`` [B, G, K] are scores of K categories. The teacher sees the first G of the V
    views. With p = softmax((teacher - ``centre`` [K]) / ``teacher_temperature``) and q = softmax(student /
    ``student_temperature``), the loss is the mean of -sum over k of p_gk log q_vk over the samples and the G (V - 1)
    pairs of a view of the teacher and another view of the student. The teacher gets no gradient. Everything is in at
    least float32. Raises ``ValueError`` where there is no other view.
    """
    (rows, views, _), seen = student.shape, teacher.shape[1]
    if not 1 <= seen <= views or views < 2:
        raise ValueError(f"{views} views of the student and {seen} of the teacher make no pairs: at least 2 and 1 do")
    dtype = torch.promote_types(student.dtype, torch.float32)
    shares = categories(teacher.detach(), centre, teacher_temperature).to(dtype)
    logs = (student.to(dtype) / student_temperature).log_softmax(2)
    with torch.autocast(student.device.type, enabled=False):
        terms = -(shares @ logs.transpose(1, 2))
    same = torch.eye(seen, views, dtype=torch.bool, device=terms.device)
    return terms.masked_fill(same, 0.0).sum() / (rows * seen * (views - 1))


def categories(teacher: Tensor, centre: Tensor, temperature: float | Tensor) -> Tensor:
    """The teacher's scores [..., K] to the shares of the categories, centred and sharpened, in at least float32."""
    scores = teacher.to(torch.promote_types(teacher.dtype, torch.float32)) - centre
    return (scores / temperature).softmax(-1)


def entropy(shares: Tensor) -> Tensor:
    """The entropy of distributions [..., K] in nats, [...]."""
    return -torch.xlogy(shares, shares).sum(-1)
