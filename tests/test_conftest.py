"""What the tests stand on: `tests` is this folder, whatever else of that name is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HERE, check_package

ROOT = HERE.parent


def test_python_finds_these_tests_and_not_those_of_a_library() -> None:
    command = [sys.executable, "-c", "import tests; print(tests.__file__)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == HERE / "__init__.py"


def test_a_fresh_clone_imports_its_own_tests(tmp_path: Path) -> None:
    clone, foreign = tmp_path / "clone", tmp_path / "foreign" / "tests"
    foreign.mkdir(parents=True)
    (foreign / "__init__.py").write_text("raise SystemExit('the tests of a library were imported')")
    (clone / "tests" / "deep").mkdir(parents=True)
    for name in ("pyproject.toml", "tests/__init__.py", "tests/conftest.py", "tests/allowed_skips.txt"):
        shutil.copy(ROOT / name, clone / name)
    imported = "import tests\nfrom tests.conftest import HERE\n\n"
    text = f"{imported}def test_it() -> None:\n    assert HERE.parent.name == 'clone'\n"
    for name in ("tests/test_it.py", "tests/deep/test_it.py"):
        (clone / name).write_text(text)
    command = [Path(sys.executable).with_name("pytest"), "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = os.environ | {"PYTHONPATH": str(foreign.parent)}
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_other_tests_are_refused_with_words() -> None:
    check_package([str(HERE)])
    with pytest.raises(pytest.UsageError, match="another package has that name"):
        check_package(["/usr/lib/python3/dist-packages/tests"])
