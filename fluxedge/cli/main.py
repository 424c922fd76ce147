"""`fluxedge`: the list of verbs. A verb's module is imported only when it is used: `fluxedge version` stays fast.

Exit codes: 0 done · 1 it did not work · 2 wrong usage · 3 the daemon does not run · 4 not permitted ·
5 sent, but not certain that it took effect · 78 the configuration is wrong (EX_CONFIG of sysexits.h)
"""

from __future__ import annotations

import importlib
import typing

import click

OK, FAILED, USAGE, NOT_RUNNING, NOT_PERMITTED, UNSURE, BAD_CONFIG = 0, 1, 2, 3, 4, 5, 78

VERBS: dict[str, tuple[str, str]] = {  # verb -> (module below fluxedge.cli, one line for the list)
    "run": ("run", "Run the gateway in the foreground."),
    "check": ("check", "Check the configuration; say every mistake with file and line."),
    "status": ("status", "Show what runs, what is wrong and what to do about it."),
    "doctor": ("doctor", "Look at gateway and machine; say what is wrong and what to do."),
    "points": ("points", "List all points with their latest values."),
    "watch": ("watch", "Show values live as they are read."),
    "read": ("read", "Read a device now, with or without a running gateway."),
    "write": ("write", "Write a value to a point and read it back."),
    "log": ("log", "Query or export what the log holds."),
    "history": ("history", "Show what points were: samples, or stretches of time."),
    "queue": ("queue", "Show, retry, export or drop what waits for uplinks."),
    "backup": ("backup", "Save configuration, log and history into a file."),
    "restore": ("restore", "Put a backup back."),
    "reload": ("reload", "Apply changed configuration files."),
    "drivers": ("drivers", "List or show driver files."),
    "simulate": ("simulate", "Simulate devices from driver files."),
    "verify": ("verify", "Subscribe to a broker and prove that nothing is missing."),
    "schema": ("schema", "Print the JSON Schema of configuration files and payloads."),
    "demo": ("demo", "Run a gateway with simulated devices and a broker."),
    "version": ("version", "Print the version."),
}


class Words(click.Group):
    """A group that says what a misspelt word was probably meant to be."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        if args and args[0] not in names and not ctx.resilient_parsing and not args[0].startswith("-"):
            from fluxedge.config.mistakes import unknown

            ctx.fail(unknown("verb", args[0], names))
        return super().resolve_command(ctx, args)


class Verbs(Words):
    """Load a verb's module when it is used. Each module has one click command named like its verb."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"fluxedge.cli.{VERBS[cmd_name][0]}")
        return typing.cast(click.Command, getattr(module, cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, line) for verb, (_, line) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """fluxedge: an edge gateway that polls devices, logs what it reads and forwards it, losing nothing."""


if __name__ == "__main__":
    main()
