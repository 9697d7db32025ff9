"""What a run tells while nobody watches."""

from __future__ import annotations

import pytest

from st_ssl.engine.console import RunProgress


def test_time_left_is_told_once_it_is_known(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("st_ssl.engine.console.time.monotonic", lambda: now[0])
    with RunProgress("run", total=10, done=4, enabled=True) as progress:
        progress.update(4, "loss 2")
        now[0] += 20
        progress.update(6, "loss 1")
    assert capsys.readouterr().err.splitlines() == ["run: step 4/10, loss 2", "run: step 6/10, loss 1, 40 s left"]
