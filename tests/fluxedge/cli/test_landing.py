"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fluxedge.cli.landing import landing
from fluxedge.cli.online import Trouble


def test_a_file_is_there_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    with landing(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["b.tar"]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), ValueError("x"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_whatever_ends_it_the_old_file_stays_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "b.tar"
    path.write_bytes(b"old")

    def write() -> None:
        with landing(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(BaseException) as found:
        write()
    assert isinstance(found.value, Trouble if isinstance(error, OSError) else type(error))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["b.tar"]


def test_a_full_disk_is_said_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(Trouble) as found, landing(tmp_path / "b.tar"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "No space left on device" in found.value.message
    assert "a disk with more room" in found.value.hint


def test_a_real_limit_of_the_file_system_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import resource, sys, pathlib; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "from fluxedge.cli.landing import landing\n"
        "with landing(pathlib.Path(sys.argv[1])) as file:\n"
        "    for _ in range(100): file.write(bytes(4096))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "b.tar")], capture_output=True, check=False)
    assert b"File too large" in ended.stderr
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(Trouble, match="No such file or directory"), landing(tmp_path / "no" / "b.tar"):
        pass
    with pytest.raises(Trouble, match="is a directory"), landing(tmp_path):
        pass
