"""A look at all training samples before an epoch: what clustering and mining are made from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.base import DataSource
from st_ssl.data.loading.loader import build_loader
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.data.views import Views, ViewSpec
from st_ssl.encoders.base import Encoder
from st_ssl.engine.runtime import Runtime
from st_ssl.training import distributed


@torch.no_grad()
def look_at(
    source: DataSource,
    entries: Sequence[Entry],
    batch_size: int,
    seed: int,
    runtime: Runtime,
    specs: Sequence[ViewSpec],
    encoder: Encoder,
) -> tuple[Tensor, Tensor]:
    """The indices int64 [N] of all ``entries`` that could be read, in their order, and what ``encoder`` makes of the V
    views ``specs`` of each in evaluation mode: pooled features [N, V, D], on the device of the run. Every process looks
    at its share and gets the whole. Raises ``DataError`` where no sample could be read."""
    views = Views(tuple(specs))
    rows = list(range(runtime.rank, len(entries), runtime.world_size))
    share = max(1, batch_size // runtime.world_size)
    keys = [[(0, row) for row in rows[start : start + share]] for start in range(0, len(rows), share)]
    dataset = source.dataset(entries, views, seed)
    timeout, max_lost = source.sample_timeout, source.max_bad(len(entries))
    training = encoder.training
    encoder.eval()
    found: dict[int, Tensor] = {}
    try:
        for batch in build_loader(dataset, keys, collate, source.num_workers, timeout=timeout, max_lost=max_lost):
            if not batch.views:
                continue
            shown = views.prepare(batch.to(runtime.device).views)
            pooled = torch.stack([encoder(view.content).pooled.float().cpu() for view in shown], 1)
            own = (batch.indices == batch.wanted).nonzero().flatten().tolist()  # what stands in for another is left out
            found |= {int(batch.wanted[row]): pooled[row] for row in own}
    finally:
        encoder.train(training)
    everything = {row: features for part in distributed.gather_objects(found) for row, features in part.items()}
    if not everything:
        raise DataError("none of the training samples could be read")
    order = sorted(everything)
    return torch.tensor(order), torch.stack([everything[row] for row in order]).to(runtime.device)
