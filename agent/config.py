"""Owns the configuration: one frozen struct, passed down; nothing else reads the environment."""

from __future__ import annotations

import pathlib
from typing import Annotated, Literal

import msgspec

from stages import kit


class Nats(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bus. Without a URL the agent starts its own server."""

    url: str = ""
    credentials: str | None = None
    """Path of a NATS credentials file."""
    nkey_seed: str | None = None
    """Path of a file with an nkey seed."""
    tls_ca: str | None = None
    prefix: str = "codeguardian"
    """First token of every subject."""
    replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
    port: int = 0
    """Of the embedded server; 0 takes a free one."""


class Ray(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cluster. Without an address the agent starts a local one."""

    address: str = ""
    cpus: int | None = None
    """Of the local cluster; all of the machine's where not given."""
    workers: int | None = None
    """Warm workers; one per CPU of the cluster where not given."""
    object_store_bytes: int | None = None


class Artifacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The artifact store: an fsspec URI, or a folder under the data folder."""

    uri: str = ""


class Tracking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """MLflow: a server's URL, or SQLite under the data folder."""

    uri: str = ""


class Specialist(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ML-Training-Specialist: our reference one as a child process, or somebody else's."""

    embedded: bool = True
    accept_timeout_s: float = 2.0
    heartbeat_s: float = 5.0
    missed_heartbeats: int = 3


class Runs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many runs this agent holds, and how soon another may take them over."""

    max_active: Annotated[int, msgspec.Meta(ge=1)] = 16
    lease_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    """The ack wait of a run's ticket: a dead agent's runs move on after this long."""
    max_stages: int = 10_000
    max_fan_out: int = 10_000
    max_payload_bytes: int = 1 << 20


class Logs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the agent writes to standard error."""

    format: Literal["auto", "console", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Access(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stages may reach."""

    data_roots: tuple[str, ...] = (".",)
    """Folders that `file:` URIs may reach; relative URIs start at the first."""
    allowed_schemes: tuple[str, ...] = kit.DEFAULT_SERVICES.allowed_schemes
    allowed_hosts: tuple[str, ...] = ()
    max_input_bytes: int = kit.DEFAULT_SERVICES.max_input_bytes


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be configured."""

    data_dir: str = ".mlpm"
    agent_id: str = ""
    """Subject-safe; made from host and process where not given."""
    nats: Nats = Nats()
    ray: Ray = Ray()
    artifacts: Artifacts = Artifacts()
    tracking: Tracking = Tracking()
    specialist: Specialist = Specialist()
    runs: Runs = Runs()
    logs: Logs = Logs()
    access: Access = Access()
    price_per_cpu_hour: float = 0.0

    @property
    def data_path(self) -> pathlib.Path:
        """Give the absolute data folder."""
        return pathlib.Path(self.data_dir).resolve()

    @property
    def artifacts_uri(self) -> str:
        """Give the artifact store's URI."""
        return self.artifacts.uri or (self.data_path / "artifacts").as_uri()

    @property
    def tracking_uri(self) -> str:
        """Give MLflow's URI."""
        return self.tracking.uri or f"sqlite:///{self.data_path / 'mlflow.db'}"

    def services(self, nats_url: str) -> kit.Services:
        """Give what stages may reach."""
        return kit.Services(
            tracking_uri=self.tracking_uri,
            nats_url=nats_url,
            data_roots=tuple(str(pathlib.Path(root).resolve()) for root in self.access.data_roots),
            allowed_schemes=self.access.allowed_schemes,
            allowed_hosts=self.access.allowed_hosts,
            max_input_bytes=self.access.max_input_bytes,
        )
