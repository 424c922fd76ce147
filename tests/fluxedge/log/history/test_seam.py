"""The seam file: what was saved is loaded; what cannot be read means that leftovers are possible."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxedge.log.history import seam
from fluxedge.log.history.seam import Seam


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    saved = Seam({5: 7, 2: 9}, True, ["2027-01-31"])
    seam.save(tmp_path, saved)
    assert seam.load(tmp_path) == saved
    assert [path.name for path in tmp_path.iterdir()] == ["seam"]


def test_without_a_file_nothing_was_written(tmp_path: Path) -> None:
    assert seam.load(tmp_path) == Seam()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"upto": 3}'])
def test_a_file_that_cannot_be_read_means_that_leftovers_are_possible(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "seam").write_bytes(content)
    assert seam.load(tmp_path) == Seam(open=True)


def test_the_newest_epochs_are_kept(tmp_path: Path) -> None:
    seam.save(tmp_path, Seam(dict.fromkeys(range(500), 1)))
    assert sorted(seam.load(tmp_path).upto) == list(range(400, 500))


def test_a_disk_that_cannot_be_read_stops_who_writes_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seam.save(tmp_path, seam.Seam({7: 3}))

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert seam.load(tmp_path) == seam.Seam()
    with pytest.raises(OSError, match="Input/output"):
        seam.load(tmp_path, writing=True)
