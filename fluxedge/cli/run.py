"""`fluxedge run`: the daemon, in the foreground."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import logging
import os
import resource
import sys
from pathlib import Path

import click

from fluxedge.cli import places
from fluxedge.cli.main import BAD_CONFIG, FAILED


def settle() -> None:
    """Take what the start made out of the garbage collector's sight; called once, when the gateway polls.

    It lives as long as the process. Full collections that looked at it stopped the loop for 40 to 55 ms, without it
    for 2 to 16 (measured with 200 to 1,000 devices, 2-core x86-64 VM).
    """
    gc.collect()
    gc.freeze()


def lift_file_limit() -> None:
    """Permit as many open files as the system lets this process have: every TCP device, client and broker is one.

    systemd and shells set the soft limit to 1024 for programs that use select(2), which nothing here does.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # fs.nr_open is lower: it stays as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@click.command()
@click.option(
    "--config", "config_dir", type=click.Path(path_type=Path), help="Configuration directory [/etc/fluxedge]."
)
@click.option("--state", "state_dir", type=click.Path(path_type=Path), help="Where the log and all state live.")
@click.option("--verbose", is_flag=True, help="Log details.")
def run(config_dir: Path | None, state_dir: Path | None, verbose: bool) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    SIGHUP reloads the configuration; changed files are noticed by themselves. Exit codes: 0 stopped, 1 the log or
    the state directory cannot be used, or a part failed, 78 fluxedge.toml is unusable and there is no last good
    version.
    """
    import uvloop

    from fluxedge import journal
    from fluxedge.config.load import Layout
    from fluxedge.problems import Problem
    from fluxedge.service import BadConfig, Service

    faulthandler.enable(file=2)  # SIGABRT of systemd's watchdog: every thread's stack goes to the journal
    lift_file_limit()
    os.umask(0o027)  # what the log holds is for the daemon and its group, as its socket is
    journal.set_up(logging.DEBUG if verbose else logging.INFO)
    state = places.state_dir(state_dir)
    layout = Layout.standard(places.config_dir(config_dir), state)

    async def main() -> int:
        return await Service(layout, state).run(lambda _: settle())

    try:
        code = uvloop.run(main())
    except BadConfig:
        click.echo("fluxedge.toml cannot be used and there is no last good version; nothing was started.", err=True)
        sys.exit(BAD_CONFIG)
    except Problem as problem:
        click.echo(f"{problem}\n{problem.hint}".rstrip(), err=True)
        sys.exit(FAILED)
    sys.exit(code)
