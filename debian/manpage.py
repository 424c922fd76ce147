"""Print fluxedge(8): debian/fluxedge.8 with the program's own table of verbs. Usage: manpage.py APP VENDOR"""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path[:0] = sys.argv[1:]
from fluxedge.cli.main import VERBS  # noqa: E402

verbs = "\n".join(f".TP\n.B {verb}\n{line}" for verb, (_, line) in VERBS.items())
sys.stdout.write(Path(__file__).with_name("fluxedge.8").read_text().replace("@VERBS@", verbs))
