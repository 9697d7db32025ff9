from __future__ import annotations

import pytest
import torch

from st_ssl.encoders.conv3d import HalvingPool, arranged


@pytest.mark.parametrize(("dim", "last"), [(64, True), (256, True), (512, False), (2048, False)])
@pytest.mark.parametrize("given", [torch.contiguous_format, torch.channels_last_3d])
def test_the_layout_goes_by_the_width(dim: int, last: bool, given: torch.memory_format) -> None:
    clip = torch.randn(2, 3, 4, 5, 6).contiguous(memory_format=given)
    result = arranged(clip, dim)
    assert torch.equal(result, clip)
    assert result.is_contiguous(memory_format=torch.channels_last_3d) == last
    assert result.is_contiguous() != last


def test_halving_leaves_single_frames_rows_and_columns() -> None:
    x = torch.arange(24.0).view(1, 1, 2, 3, 4)
    assert HalvingPool()(x).flatten().tolist() == [17, 19]  # the odd row is left over
    assert HalvingPool(time=False)(x).flatten().tolist() == [5, 7, 17, 19]
    assert HalvingPool()(x[:, :, :1]).flatten().tolist() == [5, 7]
    assert HalvingPool()(x[..., :1, :1]).flatten().tolist() == [12]
