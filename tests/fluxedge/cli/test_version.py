from __future__ import annotations

import json
import platform
import sqlite3

from fluxedge import __version__
from tests.fluxedge.cli.conftest import verb


async def test_it_names_what_a_report_of_a_defect_needs() -> None:
    done = await verb("version")
    assert done.exit_code == 0
    assert (
        done.stdout == f"fluxedge {__version__} (Python {platform.python_version()}, SQLite {sqlite3.sqlite_version})\n"
    )
    found = json.loads((await verb("version", "--json")).stdout)
    assert found == {"fluxedge": __version__, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
