"""`sroute doctor`."""

import typer


def command() -> None:
    """Say what this machine has: versions, devices, kernels, access to the hub, free disk.

    The exit code is 1 where something keeps commands from working.
    """
    from ..io.doctor import examine
    from ..reporting.table import Table

    checks = examine()
    rows = [[check.name, check.found, check.state, check.advice] for check in checks]
    Table(["what", "found", "state", "advice"], rows, left=4).print()
    if any(check.state == "problem" for check in checks):
        raise typer.Exit(1)
