"""Benchmarks of drives: what a network says of a split, in the files that they take, judged as they judge.

``base.py`` asks the network; ``kitti.py``, ``nuscenes.py`` and ``semantic_kitti.py`` write and judge.
"""

from st_ssl.transfer.benchmarks.base import Asked, Results
from st_ssl.transfer.benchmarks.run import on_benchmark

__all__ = ["Asked", "Results", "on_benchmark"]
