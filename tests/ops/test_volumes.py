from __future__ import annotations

import pytest
import torch
from torch import Tensor

from st_ssl.core.errors import ConfigError
from st_ssl.core.types import PointBatch
from st_ssl.ops.sparse import sparse_tensor
from st_ssl.ops.volumes import Lattice, Range, Volume, dense, grid_size, voxelise_range

RANGE: Range = (-2, 0, -1, 2, 3, 1)
CELL = (0.5, 0.25, 1.0)


def linear(xyz: Tensor) -> Tensor:
    """Two values that are linear in the place: [..., 3] to [..., 2]."""
    return xyz @ torch.tensor([[1.0, 0.3], [-2.0, 0.5], [0.7, 3.0]]) + torch.tensor([0.1, -5.0])


def volume(clouds: int = 2) -> Volume:
    """The values of ``linear``, and in the second cloud 100 more."""
    empty = Volume(torch.zeros(clouds, 2, 2, 12, 8), RANGE, Lattice((-1.75, 0.125, -0.5), CELL))
    values = linear(empty.centres()).permute(3, 0, 1, 2)
    return Volume(torch.stack([values + 100 * b for b in range(clouds)]), RANGE, empty.lattice)


def test_centres_fill_the_range() -> None:
    centres = volume().centres()
    assert centres.shape == (2, 12, 8, 3)
    assert torch.equal(centres[0, 0, 0], torch.tensor([-1.75, 0.125, -0.5]))
    torch.testing.assert_close(centres[-1, -1, -1], torch.tensor([1.75, 2.875, 0.5]))


def test_between_centres_it_is_linear_and_beyond_them_it_goes_on() -> None:
    generator = torch.Generator().manual_seed(0)
    low, high = torch.tensor([-1.75, 0.125, -0.5]), torch.tensor([1.75, 2.875, 0.5])
    places = low + torch.rand(200, 3, generator=generator) * (high - low)
    cloud = torch.arange(200) % 2
    torch.testing.assert_close(volume().at(places, cloud), linear(places) + 100 * cloud[:, None])
    border = torch.tensor([[-1.99, 2.99, 0.99]])
    nearest = torch.tensor([[-1.75, 2.875, 0.5]])
    torch.testing.assert_close(volume().at(border, torch.tensor([0])), linear(nearest))


def test_outside_there_are_zeros() -> None:
    places = torch.tensor([[-2.01, 1, 0], [2.0, 1, 0], [0, 3.1, 0], [0, 1, -1.01], [0, 1, 50.0]])
    assert torch.equal(volume().at(places, torch.zeros(5, dtype=torch.int64)), torch.zeros(5, 2))


def test_gradients_of_values_and_places() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(1, 2, 2, 4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    places = (torch.rand(6, 3, generator=generator, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()

    def read(values: Tensor, places: Tensor) -> Tensor:
        grid = Volume(values, (0, 0, 0, 1, 1, 1), Lattice((1 / 6, 1 / 8, 1 / 4), (1 / 3, 1 / 4, 1 / 2)))
        return grid.at(places, torch.zeros(6, dtype=torch.int64))

    assert torch.autograd.gradcheck(read, (values, places))


def test_a_grid_of_one_cell_is_constant() -> None:
    grid = Volume(torch.full((1, 1, 1, 1, 1), 7.0), (0, 0, 0, 1, 1, 1), Lattice((0.5, 0.5, 0.5), (1, 1, 1)))
    assert torch.equal(grid.at(torch.rand(5, 3), torch.zeros(5, dtype=torch.int64)), torch.full((5, 1), 7.0))


def test_bev_has_the_heights_of_a_channel_side_by_side() -> None:
    grid = volume()
    assert grid.bev().shape == (2, 4, 12, 8)
    assert torch.equal(grid.bev()[:, 1], grid.values[:, 0, 1])


def test_strided_cells_are_where_the_middle_of_their_kernel_is() -> None:
    lattice = Lattice((0.5, 0.5, 0.5), (1, 1, 1)).strided((3, 3, 1), (2, 2, 1), (1, 0, 0))
    assert lattice == Lattice((0.5, 1.5, 0.5), (2, 2, 1))


def test_voxels_are_counted_from_the_corner_of_the_range() -> None:
    xyz = torch.tensor([[-2, 0, -1], [-1.6, 0.2, -0.1], [1.99, 2.99, 0.99], [2, 1, 0], [0, -0.01, 0], [0, 0.3, 0]])
    points = PointBatch(xyz, torch.tensor([0, 5, 5, 6]))
    voxels = voxelise_range(points, RANGE, CELL)
    assert voxels.coordinates.tolist() == [[0, 0, 0, 0], [0, 1, 11, 7], [2, 1, 1, 4]]
    assert voxels.counts.tolist() == [2, 1, 1]
    assert voxels.of_point.tolist() == [0, 0, 1, -1, -1, 2]
    assert (voxels.clouds, voxels.features.shape) == (3, (3, 0))


def test_taken_voxels_forget_the_points_of_the_others() -> None:
    points = PointBatch(torch.tensor([[-2, 0, -1], [0, 1.0, 0], [1.9, 2.9, 0.9], [9, 9, 9]]), torch.tensor([0, 4]))
    voxels = voxelise_range(points, RANGE, CELL)
    some = voxels.take(torch.tensor([0, 2]))
    assert some.of_point.tolist() == [0, -1, 1, -1]
    assert torch.equal(some.coordinates, voxels.coordinates[[0, 2]])
    assert len(some) == 2


def test_a_range_that_is_no_whole_number_of_voxels() -> None:
    assert grid_size((0, -40, -3, 70.4, 40, 1), (0.05, 0.05, 0.1)) == (1408, 1600, 40)
    with pytest.raises(ConfigError, match=r"along y is 10.5 voxels of 0.2 m: expected a whole number"):
        grid_size((0, 0, 0, 2, 2.1, 1), (0.2, 0.2, 0.2))
    with pytest.raises(ConfigError, match="0 to -2 along x"):
        grid_size((0, 0, 0, -2, 2, 1), (0.2, 0.2, 0.2))


def test_dense_puts_features_at_their_coordinates() -> None:
    coords = torch.tensor([[1, 0, 2, 3], [0, 1, 0, 0]])
    x = sparse_tensor(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), coords, (2, 3, 4), 2)
    grid = dense(x)
    assert grid.shape == (2, 2, 2, 3, 4)
    assert grid[1, :, 0, 2, 3].tolist() == [1, 2]
    assert grid[0, :, 1, 0, 0].tolist() == [3, 4]
    assert grid.count_nonzero() == 4
