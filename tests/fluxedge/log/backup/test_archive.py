"""Archives: whole ones are read back, anything else is refused with a reason."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
from pathlib import Path

import msgspec
import pytest

from fluxedge.log.backup import archive
from fluxedge.log.backup.archive import DIGEST, FIRST, MANIFEST, Archive, BackupProblem, Manifest, check, usual
from tests.fluxedge.log.backup.backups import tar

PARTS = {
    "config/fluxedge.toml": b"[gateway]\n",
    "state/gateway-id": b"gw\n",
    "log/" + "长" * 60: b"\0" * 5000,
    "log/e": b"",
}


def manifest(made: Archive, **changes: object) -> Manifest:
    found = Manifest(
        format=1, fluxedge="0.1.0", made_us=1, gateway="gw", machine="m", schema=2, epoch=3, heads={"rounds": 4},
        log=True, history=False, credentials=False, left_out=[], parts=list(made.parts.values()),
    )  # fmt: skip
    return msgspec.structs.replace(found, **changes)


def whole(held: dict[str, bytes] = PARTS, **changes: object) -> bytes:
    buffer = io.BytesIO()
    made = Archive(buffer)
    for name, data in held.items():
        made.add(name, data)
    made.finish(manifest(made, **changes))
    return buffer.getvalue()


def refused(data: bytes) -> str:
    with pytest.raises(BackupProblem) as found:
        check(io.BytesIO(data))
    assert found.value.hint
    return found.value.message


def test_what_was_added_is_read_back() -> None:
    found = check(io.BytesIO(whole()))
    assert {name: b"".join(found.pieces(name)) for name in found.offsets} == PARTS
    assert found.names("log") == [name for name in PARTS if name.startswith("log/")]
    assert found.manifest.gateway == "gw"


def test_any_tar_shows_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(whole())
    with tarfile.open(tmp_path / "x.tar") as made:
        assert made.getnames() == [FIRST, *PARTS, MANIFEST, DIGEST]
        assert {member.mode for member in made} == {0o600}


def test_of_two_parts_with_one_name_the_later_counts() -> None:
    buffer = io.BytesIO()
    made = Archive(buffer)
    made.add("history/2026-01-01.db", b"torn")
    made.add("config/a", b"a")
    made.add("history/2026-01-01.db", b"whole file")
    made.finish(manifest(made))
    found = check(buffer)
    assert b"".join(found.pieces("history/2026-01-01.db")) == b"whole file"


def test_a_source_that_shrank_is_filled_up_and_does_not_break_the_archive() -> None:
    buffer = io.BytesIO()
    made = Archive(buffer)
    made.add_file("history/2026-01-01.db", io.BytesIO(b"ab"), 5)
    made.add("config/a", b"a")
    made.finish(manifest(made))
    assert b"".join(check(buffer).pieces("history/2026-01-01.db")) == b"ab\0\0\0"


def test_every_truncation_is_refused() -> None:
    data = whole()
    for size in [*range(0, len(data), 512), len(data) - 1]:
        refused(data[:size])


def test_bytes_behind_the_end_are_refused() -> None:
    refused(whole() + b"\0")
    refused(whole() + b"x" * 512)


def test_every_flipped_bit_is_refused() -> None:
    data = whole()
    rng = random.Random(7)
    places = [*range(2048), *range(len(data) - 12_000, len(data), 7), *rng.sample(range(len(data)), 2000)]
    for at in places:
        flipped = bytearray(data)
        flipped[at] ^= 1 << rng.randrange(8)
        refused(bytes(flipped))


def test_a_newer_format_is_refused_in_clear_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "FORMAT", 2)
    newer = whole()
    monkeypatch.undo()
    assert refused(newer) == "it is a backup of format 2, this version of fluxedge knows 1"


@pytest.mark.parametrize("data", [b"", b"SQLite format 3\0" * 1000, tar(("a", b"b")), tar((FIRST, b"{}"))])
def test_other_files_are_refused(data: bytes) -> None:
    refused(data)


def test_a_manifest_that_does_not_fit_its_parts_is_refused() -> None:
    assert refused(whole({"config/a": b"a"}, parts=[])) == "its parts are not those of its manifest"
    lie = archive.PartInfo("config/a", 1, "0" * 64)
    assert refused(whole({"config/a": b"a"}, parts=[lie])) == "config/a is not what was saved"


def special(kind: bytes, name: str = "config/a", link: str = "/etc/shadow") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "member",
    [
        ("../config/a", b""), ("config/../../etc/passwd", b""), ("/etc/passwd", b""), ("config//a", b""),
        ("config/./a", b""), ("config/", b""), ("config/a\\b", b""), ("config/a\nb", b""), ("other/a", b""), ("a", b""),
        special(tarfile.SYMTYPE), special(tarfile.LNKTYPE), special(tarfile.CHRTYPE), special(tarfile.BLKTYPE),
        special(tarfile.FIFOTYPE), special(tarfile.DIRTYPE), special(tarfile.GNUTYPE_SPARSE),
    ],
    ids=lambda member: member[0] if isinstance(member, tuple) else member.type.decode(),
)  # fmt: skip
def test_a_hostile_part_is_refused(member: tuple[str, bytes] | tarfile.TarInfo) -> None:
    refused(tar((FIRST, b'{"format": 1}'), member, (MANIFEST, b"{}"), (DIGEST, b"0" * 65)))


def test_a_part_of_negative_size_is_refused() -> None:
    info = tarfile.TarInfo("config/a")
    info.pax_headers = {"size": "-512"}
    text = refused(tar((FIRST, b'{"format": 1}'), info, (MANIFEST, b"{}"), (DIGEST, b"0" * 65)))
    assert text == "it holds 'config/a', which no backup does"


def test_a_header_that_asks_for_gigabytes_is_refused_without_them() -> None:
    data = bytearray(tar(("config/a", b"")))
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8 << 30
    refused(info.tobuf(tarfile.GNU_FORMAT) + bytes(data))


def test_a_part_that_claims_to_be_larger_than_the_file_is_refused() -> None:
    info = tarfile.TarInfo("config/a")
    info.size = 1 << 40
    refused(tar((FIRST, b'{"format": 1}'))[:1024] + info.tobuf(tarfile.GNU_FORMAT))


def test_more_parts_than_a_backup_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_PARTS", 3)
    assert "more than 3 parts" in refused(whole())


def test_a_compressed_tar_is_none() -> None:
    assert refused(gzip.compress(whole()))


def test_names_that_leave_a_folder_are_never_usual() -> None:
    assert usual("config/devices/一号 hall.toml")
    for name in ("", "a//b", "../a", "a/..", "./a", "a\0b", "a\x7f", "a\u202eb", "x" * 1025):
        assert not usual(name), name


def test_a_part_that_is_too_large_to_hold_is_refused() -> None:
    found = check(io.BytesIO(whole()))
    with pytest.raises(BackupProblem):
        found.read("log/" + "长" * 60, 4999)
    with pytest.raises(BackupProblem):
        found.read("log/none", 1)


def test_a_directory_block_of_noise_ends_nothing() -> None:
    rng = random.Random(3)
    for _ in range(300):
        noise = bytearray(whole())
        at = rng.randrange(len(noise) - 8)
        noise[at : at + 8] = struct.pack("<Q", rng.getrandbits(64) | 1)
        if bytes(noise) != whole():
            refused(bytes(noise))
