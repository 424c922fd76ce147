"""The archive."""

from __future__ import annotations

import io
import tarfile

from fluxedge.doctor.bundle import FOLDER, Bundle
from fluxedge.doctor.redact import Redactor


def unpacked(bundle: Bundle) -> dict[str, str]:
    target = io.BytesIO()
    bundle.write(target, 1_800_000_000.0)
    with tarfile.open(fileobj=io.BytesIO(target.getvalue()), mode="r:gz") as archive:
        found = {}
        for entry in archive:
            assert (entry.mode, entry.isfile(), entry.mtime) == (0o600, True, 1_800_000_000)
            file = archive.extractfile(entry)
            assert file is not None
            found[entry.name.removeprefix(f"{FOLDER}/")] = file.read().decode()
        return found


def test_the_readme_lists_what_is_in_it_and_what_is_not() -> None:
    bundle = Bundle(Redactor([]))
    bundle.add_text("report.txt", "all well\n")
    bundle.add_data("status.json", {"a": 1})
    bundle.leave_out("journal.txt", "this user may not read the journal")
    found = unpacked(bundle)
    assert list(found) == ["README.txt", "report.txt", "status.json"]
    assert "  report.txt       9 bytes\n" in found["README.txt"]
    assert "  journal.txt      this user may not read the journal\n" in found["README.txt"]
    assert "Never in it: credentials/" in found["README.txt"]


def test_everything_that_goes_in_is_redacted() -> None:
    bundle = Bundle(Redactor(["hunter2-secret"]))
    bundle.add_text("a.txt", "said hunter2-secret\n")
    bundle.add_data("b.json", {"hunter2-secret": ["hunter2-secret"]})
    bundle.leave_out("c.txt", "hunter2-secret was wrong")
    assert "hunter2" not in "".join(unpacked(bundle).values())


def test_a_part_that_would_show_a_secret_all_the_same_is_left_out() -> None:
    bundle = Bundle(Redactor(['": "']))  # a secret that JSON itself is made of
    bundle.add_data("b.json", {"a": "b"})
    found = unpacked(bundle)
    assert list(found) == ["README.txt"]
    assert "b.json           a secret would have been in it" in found["README.txt"]
