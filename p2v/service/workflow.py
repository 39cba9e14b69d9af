# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine of `p2v serve`: each finish is a durable workflow on DBOS.

A workflow begins when the agent has sent everything, and not before: a migration may receive for
days, and its state then is in the store and the digest maps, which need no process to wait. Each
hand-over is one workflow, `ID:ATTEMPT:VERSION`, so that starting it twice runs it once. After a
crash DBOS repeats the step that was cut off; steps that ended are not run again.

Importing this module imports DBOS, which takes a second; only `p2v serve` does.
"""

from __future__ import annotations

from pathlib import Path

from dbos import DBOS, DBOSConfig, SetWorkflowID, StepOptions

from p2v.service.engine import RETRY_S
from p2v.service.migrations import Migrations
from p2v.service.steps import STEPS, Next, Step

VERSION = "2"
"""Of the workflow below. A changed sequence of steps needs a new one: a run of an older version
that was cut off is then begun anew, as steps can be repeated from their start."""
_NAME = "finish"


def default_workflow_url(data: Path) -> str:
    """Return the URL of the database that needs no server."""
    return f"sqlite:///{data / 'dbos.sqlite'}"


class DurableEngine:
    """Runs the steps as DBOS workflows. One a process, as DBOS is.

    Several converters may share a PostgreSQL database. Each only ever recovers its own workflows,
    for it alone has the images: so the converter's id is part of application name and version.
    """

    def __init__(self, url: str, converter: str) -> None:
        self._config = DBOSConfig(
            name=f"p2v-{converter}",
            system_database_url=url,
            application_version=f"{_NAME}-{VERSION}-{converter}",
            executor_id=converter,
            log_level="WARNING",
            run_migrations=True,
        )
        self._launched = False

    def launch(self, migrations: Migrations) -> None:
        """Connect to the database, and go on with the workflows that a crash cut off."""
        DBOS(config=self._config)

        @DBOS.workflow(name=_NAME, max_recovery_attempts=None)
        def finish(id: str) -> str:  # noqa: A002
            for step in STEPS:
                while (outcome := _run(step, migrations, id)) is Next.AGAIN:
                    DBOS.sleep(RETRY_S)
                if outcome is Next.STOP:
                    break
            return outcome.value

        self._workflow = finish
        DBOS.launch()
        self._launched = True

    def finish(self, migrations: Migrations, id: str, attempt: int) -> None:  # noqa: A002
        """Begin the workflow of this attempt, if it has not begun."""
        name = f"{id}:{attempt}:{VERSION}"
        if DBOS.get_workflow_status(name) is not None:
            return  # begun before the crash; DBOS recovers it
        with SetWorkflowID(name):
            DBOS.start_workflow(self._workflow, id)

    def close(self) -> None:
        """Stop; a workflow that runs is cut off, and recovered at the next launch."""
        if self._launched:
            DBOS.destroy(destroy_registry=True)
            self._launched = False


def _run(step: Step, migrations: Migrations, id: str) -> Next:  # noqa: A002
    def outcome() -> str:
        return step(migrations, id).value  # DBOS keeps it as plain text

    options = StepOptions(name=step.__name__)
    return Next(DBOS.run_step(options, outcome))
