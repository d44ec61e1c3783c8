"""Owns the configuration: one frozen struct, passed down."""

from __future__ import annotations

import pathlib
import re
from typing import Annotated, Any, Literal

import msgspec

from agent import rights
from protocol import permissions, subjects
from stages import kit

DEFAULT_FILE = "mlpm.toml"
OBJECTS = "nats-objects:"
"""Begins the URI of an artifact store on the bus: `nats-objects://BUCKET`."""


class ConfigError(Exception):
    """The configuration cannot be used."""


class BadValue(ConfigError):
    """A setting has a value that it cannot have."""

    def __init__(self, key: str, value: Any, source: str, reason: str) -> None:
        super().__init__(f"setting {key!r} from {source} cannot be {value!r}: {reason}")
        self.key = key
        self.value = value
        self.source = source


class Nats(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bus. Without a URL the agent starts its own server."""

    url: str = ""
    credentials: str | None = None
    """Path of a NATS credentials file."""
    nkey_seed: str | None = None
    """Path of a file with an nkey seed."""
    tls_ca: str | None = None
    """Path of the certificate authority's certificate."""
    tls_cert: str | None = None
    """Path of the certificate that the server is shown, where it wants one."""
    tls_key: str | None = None
    """Path of that certificate's key, where it is not in the same file."""
    worker_credentials: str | None = None
    """Path of the workers' own credentials file, on every node; the agent's where not given."""
    worker_nkey_seed: str | None = None
    """Path of the workers' own nkey seed, on every node; the agent's where not given."""
    inbox: str = ""
    """Where replies come to; `_INBOX.agent` for the agent and `_INBOX.operator` for `mlpm` where
    not given."""
    prefix: str = "codeguardian"
    """First token of every subject."""
    replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
    """Of the streams, in a cluster: 3 survive the loss of one server."""
    port: int = 0
    """Of the embedded server; 0 takes a free one."""

    def for_workers(self) -> Nats:
        """Give what a worker connects with: a key of its own if there is one."""
        if not self.worker_credentials and not self.worker_nkey_seed:
            return self
        own = {"credentials": self.worker_credentials, "nkey_seed": self.worker_nkey_seed}
        return msgspec.structs.replace(self, **own, inbox=permissions.inbox(permissions.WORKER))


class Ray(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cluster. Without an address the agent starts a local one."""

    address: str = ""
    cpus: int | None = None
    """Of the local cluster; all of the machine's where not given."""
    workers: int | None = None
    """Warm workers; one per CPU of the cluster where not given."""
    object_store_bytes: int | None = None
    max_cpus: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """For so many this agent asks a configured cluster's autoscaler at most, with what it has at
    work; for as many as its node types allow where not given."""
    idle_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """On a cluster with an autoscaler, workers that have idled for so long are dismissed, so that
    their node can be taken away."""
    allow_open: bool = False
    """Join a cluster that asks for no token: whoever reaches it can run anything there."""


class Artifacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The artifact store: where what stages make is kept."""

    uri: str = ""
    """`nats-objects:` is the bus's own store; else an fsspec URI, as `s3://bucket/folder`; a folder
    under the data folder where not given."""
    max_bytes: Annotated[int, msgspec.Meta(ge=1 << 20)] | None = None
    """How large the bus's own store gets before it takes no more; the server's limit where not
    given."""

    def __post_init__(self) -> None:
        """Refuse a bucket's name: it follows from the prefix, as its permissions do."""
        if self.uri.startswith(OBJECTS) and self.uri != OBJECTS:
            source, reason = "the configuration", f"say {OBJECTS!r}: nats.prefix names the bucket"
            raise BadValue("artifacts.uri", self.uri, source, reason)


class Tracking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """MLflow: a server's URL, or SQLite under the data folder."""

    uri: str = ""


class Specialist(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ML-Training-Specialist: our reference one as a child process, or somebody else's."""

    embedded: bool = True
    credentials: str | None = None
    """Path of the embedded one's own NATS credentials file; the agent's where not given."""
    nkey_seed: str | None = None
    """Path of the embedded one's own nkey seed; the agent's where not given."""
    accept_timeout_s: float = 2.0
    heartbeat_s: float = 5.0
    missed_heartbeats: int = 3


class Runs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many runs this agent holds, and how soon another may take them over."""

    max_active: Annotated[int, msgspec.Meta(ge=0)] = 16
    """0 conducts none: such an agent only does what others assign to it."""
    lease_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    """The ack wait of a run's ticket: a dead agent's runs move on after this long."""
    max_losses: Annotated[int, msgspec.Meta(ge=1)] = 10
    """A run with which so many agents in a row were lost, while nothing of it came to an end, is
    failed. What an agent gives back as it stops does not count."""
    max_stages: int = 10_000
    max_fan_out: int = 10_000
    max_payload_bytes: int = 1 << 20
    max_waiting: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """With so many runs in the queue that nobody has taken, requests are answered `overloaded`."""


class Allowance(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    repr_omit_defaults=True,
):
    """What one requester may have; `runs` sets the ceiling of all."""

    max_stages: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Of one pipeline."""
    max_fan_out: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Elements of one stage; checked when the stage is about to begin."""
    max_payload_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Of one request, written as JSON without blanks."""
    max_artifact_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Of one output of a stage; a larger one is not stored, and the stage fails."""
    max_run_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """A run has at most this deadline, whatever it asks for."""
    max_active: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Runs at once, queued or under way; one that waits for a person does not count."""
    max_waiting: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Of these, the runs that no agent has taken yet."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What each requester may have. A name counts for as much as its signature: see limits.md."""

    default: Allowance = Allowance()
    """Of whoever has no limit of their own."""
    requesters: dict[str, Allowance] = {}
    """By name, as `[limits.requesters."ada"]`; what is not given there is as in the default. In
    flags and in the environment it is JSON."""


class Prompting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Synadia Agent Protocol: how other agents find and prompt this one."""

    enabled: bool = True
    owner: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_-]{0,64}$(?!\n)")] = ""
    """In `agents.prompt.mlpm.OWNER.SESSION`; made from the bus's prefix where not given."""
    session: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_-]{1,64}$(?!\n)")] = "default"
    """Agents of one owner and session share their prompts."""


class Swarm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What this agent takes from other agents and from the Swarm-Orchestrator."""

    capacity: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Attempts at a time, its own included, before it takes no more; 0 takes none. The CPUs that
    the cluster has, now and later, where not given."""
    capabilities: tuple[str, ...] = ("*",)
    """Kinds of stages, as patterns, that it takes."""
    lease_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    """A dead agent's assignments move on after this long."""
    take_within_s: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    """A stage that nobody takes within this time fails as unavailable, unless somebody could."""
    min_free_bytes: int = 256 * 2**20
    """With less free memory than this nothing more is taken."""


class Security(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose signatures count, what takes one, and how long it is kept who asked for what."""

    require_signatures: tuple[rights.Action, ...] = ()
    """What takes a signature: any of `submit`, `deploy`, `approve`, `cancel`, `resume`, `promote`,
    `control`."""
    trusted_keys: tuple[str, ...] = ()
    """`NAME=PUBLIC-NKEY` of each key that counts; with `:cancel+approve` behind it that alone is
    what the key may ask for."""
    signature_window_s: Annotated[float, msgspec.Meta(gt=0)] = 120.0
    """How far the time of a signature may be from the agent's."""
    signing_key: str | None = None
    """Path of the seed or credentials file that `mlpm` signs with."""
    audit_days: Annotated[float, msgspec.Meta(gt=0)] = 365.0
    """How long the audit log is kept, unless it grows too large before."""
    audit_bytes: Annotated[int, msgspec.Meta(ge=1 << 20)] = 256 * 2**20
    """How large the audit log gets before its oldest records go."""

    def __post_init__(self) -> None:
        """Refuse keys that are none."""
        try:
            rights.read(self.trusted_keys)
        except rights.BadEntry as error:
            source = "the configuration"
            raise BadValue("security.trusted_keys", error.entry, source, str(error)) from error


class Serving(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where deployed models answer: our own serving host, a process that outlives the agent."""

    embedded: bool = True
    """Start a serving host where one is needed and none answers."""
    host: str = "127.0.0.1"
    """The address that its HTTP listens on; whoever reaches it may ask for predictions."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0
    """Of its HTTP; 0 takes a free one at the first start, and keeps it."""
    cpus: int | None = None
    """Of its local Ray cluster; all of the machine's where not given."""
    max_rows: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    """Of one request."""
    max_bytes: Annotated[int, msgspec.Meta(ge=1)] = 16 << 20
    """Of one request; on the bus its own limit holds, too."""
    credentials: str | None = None
    """Path of the host's own NATS credentials file; the agent's where not given."""
    nkey_seed: str | None = None
    """Path of the host's own nkey seed; the agent's where not given."""


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
    secrets: tuple[str, ...] = kit.DEFAULT_SERVICES.secrets
    """Environment variables and files, as patterns, that a request may refer to as a secret."""
    max_input_bytes: int = kit.DEFAULT_SERVICES.max_input_bytes


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be configured."""

    data_dir: str = ".mlpm"
    """Where everything lies that the agent keeps itself."""
    agent_id: str = ""
    """Subject-safe; made from host and process where not given."""
    nats: Nats = Nats()
    ray: Ray = Ray()
    artifacts: Artifacts = Artifacts()
    tracking: Tracking = Tracking()
    specialist: Specialist = Specialist()
    serving: Serving = Serving()
    runs: Runs = Runs()
    limits: Limits = Limits()
    prompting: Prompting = Prompting()
    swarm: Swarm = Swarm()
    security: Security = Security()
    logs: Logs = Logs()
    access: Access = Access()
    price_per_cpu_hour: float = 0.0
    """In any currency; for the cost of each stage."""

    @property
    def data_path(self) -> pathlib.Path:
        """Give the absolute data folder."""
        return pathlib.Path(self.data_dir).resolve()

    @property
    def artifacts_uri(self) -> str:
        """Give the artifact store's URI."""
        if self.artifacts.uri == OBJECTS:
            return f"{OBJECTS}//{subjects.Subjects(self.nats.prefix).artifacts_bucket}"
        return self.artifacts.uri or (self.data_path / "artifacts").as_uri()

    @property
    def tracking_uri(self) -> str:
        """Give MLflow's URI."""
        return self.tracking.uri or f"sqlite:///{self.data_path / 'mlflow.db'}"

    def services(self, nats_url: str) -> kit.Services:
        """Give what stages may reach."""
        bus = self.nats.for_workers()
        names = subjects.Subjects(self.nats.prefix)
        return kit.Services(
            tracking_uri=self.tracking_uri,
            nats_url=nats_url,
            data_roots=tuple(str(pathlib.Path(root).resolve()) for root in self._roots()),
            closed=self._closed(),
            allowed_schemes=self.access.allowed_schemes,
            allowed_hosts=self.access.allowed_hosts,
            secrets=self.access.secrets,
            secrets_bucket=names.secrets_bucket,
            nats_credentials=bus.credentials,
            nats_nkey_seed=bus.nkey_seed,
            nats_tls_ca=bus.tls_ca,
            nats_tls_cert=bus.tls_cert,
            nats_tls_key=bus.tls_key,
            max_input_bytes=self.access.max_input_bytes,
        )

    def secret_files(self) -> list[pathlib.Path]:
        """Name the files that let whoever has them in."""
        bus, own, host = self.nats, self.specialist, self.serving
        named = (bus.credentials, bus.nkey_seed, bus.tls_key, self.security.signing_key)
        others = (bus.worker_credentials, bus.worker_nkey_seed, own.credentials, own.nkey_seed)
        last = (host.credentials, host.nkey_seed)
        return [pathlib.Path(name).resolve() for name in (*named, *others, *last) if name]

    def _roots(self) -> tuple[str, ...]:
        """Give the folders that stages may read; the demo's data is no secret of the agent's."""
        asked = self.access.data_roots
        return (*asked, str(self.data_path / "demo")) if asked else ()

    def _closed(self) -> tuple[str, ...]:
        """Name what no stage may read, though it lie in a folder that may be read."""
        own = (self.data_path, pathlib.Path(DEFAULT_FILE).resolve(), *self.secret_files())
        return tuple(map(str, own))


def redact(value: Any) -> Any:
    """Hide the user and password inside a URL."""
    if isinstance(value, str):
        return re.sub(r"(//)[^/,\s]+@", r"\1***@", value)
    return value
