"""Tests of the package on a booted Debian. They run through tools/deb-test only, which says where the package is.

FLUXEDGE_DEB    the package
FLUXEDGE_TREE   a tar of a small Debian with systemd, without fluxedge
FLUXEDGE_REPO   the folder of this Debian in the repository that tools/deb-repo makes
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box.guest import Guest

collect_ignore_glob = [] if "FLUXEDGE_DEB" in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def box() -> Iterator[Guest]:
    """A booted Debian with the package at /root/fluxedge.deb, not installed. The tests follow each other on it."""
    with tempfile.TemporaryDirectory(prefix="fluxedge-box-", dir="/var/tmp") as folder:
        guest = Guest(Path(os.environ["FLUXEDGE_TREE"]), Path(folder))
        guest.put(Path(os.environ["FLUXEDGE_DEB"]), "/root/fluxedge.deb")
        try:
            guest.boot()
            yield guest
        finally:
            guest.close()
