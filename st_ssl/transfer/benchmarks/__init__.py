"""Benchmarks of drives: what a network says of a split, in the files that they take, judged as they judge.

``run.py`` asks the network; ``base.py`` has what all share; ``kitti.py``, ``nuscenes.py`` and ``semantic_kitti.py``
write and judge.
"""

from st_ssl.transfer.benchmarks.base import OnBenchmark, Results
from st_ssl.transfer.benchmarks.run import on_benchmark

__all__ = ["OnBenchmark", "Results", "on_benchmark"]
