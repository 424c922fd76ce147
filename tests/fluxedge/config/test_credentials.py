from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fluxedge.config import credentials
from fluxedge.config.credentials import Secret


def test_a_secret_is_the_text_of_a_file_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "cloud").write_bytes(b" p\xc3\xa4ss \r\n")
    assert credentials.find("cloud", (tmp_path,)).text == " päss "


def test_the_first_directory_that_has_it_wins(tmp_path: Path) -> None:
    ours, systemd = tmp_path / "ours", tmp_path / "systemd"
    systemd.mkdir()
    (systemd / "cloud").write_text("two")
    assert credentials.find("cloud", (ours, systemd)).text == "two"
    ours.mkdir()
    (ours / "cloud").write_text("one")
    assert credentials.find("cloud", (ours, systemd)).path == ours / "cloud"


@pytest.mark.parametrize(("mode", "exposed"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_file_that_everybody_can_read_is_exposed(tmp_path: Path, mode: int, exposed: bool) -> None:
    (tmp_path / "cloud").write_text("x")
    (tmp_path / "cloud").chmod(mode)
    assert credentials.find("cloud", (tmp_path,)).exposed == exposed


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "../x", "a b", "/etc/passwd"])
def test_a_name_never_leaves_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a credential"):
        credentials.find(name, (tmp_path,))


def test_what_cannot_be_used_says_why(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "huge").write_bytes(b"x" * (2**20 + 1))
    (tmp_path / "dead").symlink_to("nothing")
    for name, words in {
        "folder": "is not a file",
        "empty": "is empty",
        "binary": "is not UTF-8 text",
        "huge": "is larger than 1 MiB",
        "dead": "cannot be read: No such file",
        "absent": 'there is no credential "absent" in ',
    }.items():
        with pytest.raises(ValueError, match=words):
            credentials.find(name, (tmp_path,))


def test_a_secret_is_used_but_not_shown() -> None:
    secret = Secret("hunter2")
    assert secret == "hunter2"
    assert secret.encode() == b"hunter2"
    assert "hunter2" not in repr([secret, {"x": secret}])
    with pytest.raises(TypeError):
        msgspec.json.encode({"password": secret})
