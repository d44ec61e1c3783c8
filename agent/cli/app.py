"""Owns the program `mlpm`: its commands, and how it ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from agent.cli import (
    agents,
    audit,
    audits,
    console,
    control,
    dead,
    inspection,
    keys,
    local,
    models,
    orders,
    permissions,
    session,
    tracing,
    watching,
)

INTERRUPTED = 128 + signal.SIGINT
COMMON = """These stand anywhere: [bold]--json[/] (for programs; nothing else on standard output),
[bold]--config FILE[/], [bold]--set KEY=VALUE[/] (again for more), [bold]--url NATS-URL[/],
[bold]--sign-with FILE[/] (a key of [bold]mlpm keys[/], where the agent demands signatures).

Exit codes: 0 done, 1 refused or failed, 2 usage, 3 no agent can be reached."""

app = typer.Typer(
    name="mlpm",
    help="Durable, cached, observable ML pipelines on Ray, one NATS message away.",
    epilog=COMMON,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = {
    "Start": (local.up, models.down, local.demo),
    "Ask for work": (
        orders.run,
        orders.validate,
        orders.cancel,
        orders.resume,
        orders.approve,
        orders.deny,
    ),
    "Watch": (
        inspection.runs,
        inspection.status,
        watching.events,
        tracing.why,
        tracing.verify,
        agents.agents,
        audits.audits,
    ),
    "Deployed models": (models.endpoints, models.predict, models.rollback, models.undeploy),
    "Look things up": (
        inspection.stages,
        inspection.templates,
        local.schema,
        permissions.permissions,
        keys.keys,
    ),
    "Look after it": (
        local.doctor,
        audit.audit,
        local.config,
        local.gc,
        control.drain,
        control.undrain,
        control.capacity,
    ),
}
for panel, functions in COMMANDS.items():
    for function in functions:
        app.command(rich_help_panel=panel)(function)
app.add_typer(dead.app, rich_help_panel="Look after it")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code."""
    options, rest = session.split(sys.argv[1:] if arguments is None else arguments)
    try:
        app(rest, obj=session.Session(options), standalone_mode=True)
    except console.Stop as stop:
        console.report(stop.problem, as_json=options.json)
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
    sys.exit(0)
