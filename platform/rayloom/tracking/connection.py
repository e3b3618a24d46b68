"""From a run folder to its MLflow run: found by our tag or made, and told what it is of."""

import contextlib
import datetime
import getpass
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayloom.core.failpoints import hit
from rayloom.records.files import Say, silent
from rayloom.tracking.memory import read_record
from rayloom.tracking.page import NAMES, NAMES_TAG, run_name
from rayloom.tracking.sender import Sender
from rayloom.tracking.trouble import NotMlflowError
from rayloom.tracking.uri import is_database


@dataclass
class Connection:
    """What it takes to find or make the MLflow run of a run folder.

    Attributes:
        folder: The run folder.
        uri: Tracking URI.
        experiment: Experiment name; made if missing.
        params: Settings to show, flat.
        tags: Tags of the run.
        parent: Our id of a parent run; made if missing.
        refused: What MLflow refused so far, by name, and why; filled further.
        say: Hears what is refused.
        alive: Called at each sign of life: the first start takes seconds.
    """

    folder: Path
    uri: str
    experiment: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    parent: str | None
    refused: dict[str, str] = field(default_factory=dict)
    say: Say = silent
    alive: Callable[[], None] = lambda: None
    client: Any = None

    def open(self, known: str | None) -> Sender:
        """The sender of this run's lines; MLflow's run is RUNNING from now on.

        Args:
            known: MLflow's id of the run, as remembered.

        Raises:
            Exception: Whatever MLflow raises.
        """
        from rayloom.tracking.client import ensure_experiment, make_client

        self.client = make_client(self.uri)
        if is_database(self.uri):
            self.alive()
        experiment_id = ensure_experiment(self.client, self.uri, self.experiment)
        run_id = self._known_run(known) or self._find_or_create(experiment_id)
        if not run_id or not experiment_id:
            raise NotMlflowError(f"{self.uri} answers without an id of the run")
        self.alive()
        run = self.client.get_run(run_id)
        if run.info.lifecycle_stage == "deleted":
            self.client.restore_run(run_id)
        self.client.update_run(run_id, status="RUNNING")
        sender = Sender(
            self.client,
            run_id,
            self.folder,
            refused=self.refused,
            say=self.say,
            alive=self.alive,
            renamed=run.data.tags.get(NAMES_TAG) == NAMES,
        )
        sender.params(self.params)
        sender.tags(self._all_tags())
        return sender

    def _known_run(self, run_id: str | None) -> str | None:
        """The run that tracking.json names, if MLflow still has it and it is this folder's."""
        from mlflow.exceptions import MlflowException

        from rayloom.tracking.client import belongs

        if run_id is None:
            return None
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run.info.run_id if belongs(run, self.folder) else None

    def _find_or_create(self, experiment_id: str) -> str:
        from rayloom.tracking.client import PATH_TAG, RUN_ID_TAG, find_run

        found = find_run(self.client, experiment_id, self.folder.name, self.folder)
        if found is not None:
            return found.info.run_id
        made = self.client.create_run(
            experiment_id,
            start_time=self._created_ms(),
            tags={RUN_ID_TAG: self.folder.name, PATH_TAG: str(self.folder), NAMES_TAG: NAMES},
            run_name=run_name(read_record(self.folder), self.folder.name),
        )
        hit("tracking.run_created")
        return made.info.run_id

    def _all_tags(self) -> dict[str, str]:
        from rayloom.tracking.client import PARENT_TAG, PATH_TAG, RUN_ID_TAG, ensure_parent

        tags = {
            RUN_ID_TAG: self.folder.name,
            PATH_TAG: str(self.folder),
            "mlflow.source.name": "rayloom",
            "mlflow.source.type": "LOCAL",
        }
        record = read_record(self.folder)
        if record and record.commit:
            tags["mlflow.source.git.commit"] = record.commit
        with contextlib.suppress(OSError, KeyError, ImportError):
            tags["mlflow.user"] = getpass.getuser()
        if self.parent is not None:
            tags[PARENT_TAG] = ensure_parent(self.uri, self.experiment, self.parent)
        return tags | {str(key): str(value) for key, value in self.tags.items()}

    def _created_ms(self) -> int:
        record = read_record(self.folder)
        if record is None:
            return time.time_ns() // 1_000_000
        return int(datetime.datetime.fromisoformat(record.created).timestamp() * 1000)
