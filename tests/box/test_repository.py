"""The signed repository of `make repo`: its two lines install the package, and what was tampered with is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.box.guest import Guest

pytestmark = pytest.mark.box

# the guest has no network: only our own source is asked
APT = "-o Dir::Etc::sourceparts=- -o Dir::Etc::sourcelist=/etc/apt/sources.list.d/fluxedge.list"


def test_the_two_lines_of_the_documentation_install_it(box: Guest) -> None:
    repository = Path(os.environ["FLUXEDGE_REPO"])
    shutil.copytree(repository.parent, box.root / "srv/fluxedge")
    box.sh("install -D -m 0644 /srv/fluxedge/fluxedge.gpg /etc/apt/keyrings/fluxedge.gpg")
    line = f"deb [signed-by=/etc/apt/keyrings/fluxedge.gpg] file:/srv/fluxedge/{repository.name} ./"
    box.sh(f"echo '{line}' > /etc/apt/sources.list.d/fluxedge.list")
    assert "W:" not in box.sh(f"apt-get {APT} update")
    box.sh(f"apt-get {APT} install -y --no-install-recommends fluxedge")
    assert box.states() == ["active", "enabled"]


def test_a_package_list_that_was_changed_is_refused(box: Guest) -> None:
    folder = f"/srv/fluxedge/{Path(os.environ['FLUXEDGE_REPO']).name}"
    box.sh(f"rm {folder}/Packages.xz; rm -rf /var/lib/apt/lists/*")
    box.sh(f"sed -i 's/^Version: .*/Version: 9/' {folder}/Packages")
    box.refused(f"apt-get {APT} update -o APT::Update::Error-Mode=any")
    assert "9" not in box.sh(f"apt-cache {APT} policy fluxedge").split()
