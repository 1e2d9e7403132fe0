"""The settings of design §8: typed, frozen, read in one place; no secret has a default."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from app import settings_checks, settings_sources
from app.errors import BadSettings
from app.settings_checks import artifacts, database, identity_provider, memory, pipeline, ports, tokens, url
from app.settings_values import (
    Attribute,
    Audience,
    Host,
    Issuer,
    KeyHours,
    KeysUrl,
    Networks,
    Origin,
    Origins,
    Place,
    Port,
    Rate,
    RateLimit,
    Seconds,
    Secret,
    shown,
)

__all__ = ["RateLimit", "Settings"]

EXAMPLE_PIPELINE = "examples.listings.pipeline:pipeline"


class Settings(BaseSettings):
    """What an operator may choose; the field `db_path` is the setting `DB_PATH`, and so on.

    `load` is the way to get one. Constructing it reads nothing but the arguments and checks each value alone.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False)

    PATHS: ClassVar[tuple[str, ...]] = ("db_path", "artifacts_dir", "secrets_dir")

    app_env: Literal["dev", "test", "prod"] = Field(
        "prod",
        description="dev and test migrate at start and use the example pipeline; prod checks paths and permissions",
    )
    db_path: Place = Field(
        Path("/tmp/cabinet.db"),  # noqa: S108 the specification's default; prod refuses it
        description="The SQLite file; prod refuses a temporary folder and a file or folder that others may write",
    )
    use_sqlite: bool = Field(
        True, description="false keeps everything in memory until the process ends; prod refuses it"
    )
    database_url: SecretStr | None = Field(None, description="PostgreSQL, in a later version; refused in this one")
    run_migrations: bool = Field(False, description="Migrate at start in prod too")
    host: Host = Field("127.0.0.1", description="The address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="The port to listen on; 0 takes a free one")
    metrics_host: Host = Field("127.0.0.1", description="The address on which metrics are shown to whoever reaches it")
    metrics_port: Port = Field(None, description="The port of GET /metrics; 0 takes a free one; none: no metrics")
    public_origin: Origin | None = Field(
        None,
        description="Where callers see the service, such as https://cabinet.example.com; signed requests need it",
    )
    cors_origins: Origins = Field(
        (), description="Other origins whose pages may call from a browser, separated by commas"
    )
    forwarded_allow_ips: Networks = Field(
        (), description="Proxies whose X-Forwarded-For is believed: addresses and networks, separated by commas"
    )
    token_secret: Secret | None = Field(None, description="Signs bearer tokens; at least 32 bytes")
    token_secret_previous: Secret | None = Field(None, description="Still accepted while TOKEN_SECRET is being changed")
    token_ttl_max: int = Field(2_592_000, ge=1, le=31_536_000, description="Longest life of a token in seconds")
    oidc_issuer: Issuer | None = Field(
        None, description="The OpenID Connect provider whose tokens people may send, exactly as it writes its issuer"
    )
    oidc_audience: Audience | None = Field(
        None, description="What its tokens for this service have in aud; needed with OIDC_ISSUER"
    )
    oidc_jwks_url: KeysUrl | None = Field(
        None, description="Where its keys are; without it its discovery document says so"
    )
    pipeline: Attribute | None = Field(
        default_factory=lambda fields: None if fields["app_env"] == "prod" else EXAMPLE_PIPELINE,
        description="The pipeline as module:attribute; prod needs it, dev and test take the clone's example without it",
    )
    worker_embedded: bool = Field(True, description="serve also runs the worker; false on SQLite: tasks wait")
    artifacts_dir: Place = Field(
        default_factory=lambda fields: (
            fields["db_path"].parent / "artifacts" if fields["use_sqlite"] else Path(".cabinet/artifacts")
        ),
        description="Where the folders of tasks lie: artifacts beside the database, or .cabinet/artifacts if in memory",
    )
    rate_limit_client: Rate = Field(
        RateLimit(count=600, seconds=60), description="Requests of one client address; 0 switches off"
    )
    rate_limit_actor: Rate = Field(
        RateLimit(count=6000, seconds=60), description="Requests of one user; 0 switches off"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least level that is logged"
    )
    body_limit_bytes: int = Field(1_048_576, ge=1_024, le=67_108_864, description="Largest request body")
    request_timeout_seconds: Seconds = Field(30, ge=0.1, le=600, description="Deadline for handling a request")
    receive_timeout_seconds: Seconds = Field(15, ge=0.1, le=600, description="Deadline for receiving a request")
    drain_seconds: Seconds = Field(
        0, ge=0, le=300, description="How long requests are still taken at a stop, with /ready at 503"
    )
    shutdown_grace_seconds: Seconds = Field(
        20, ge=0, le=600, description="How long requests and stages may end at a stop"
    )
    worker_concurrency: int = Field(4, ge=1, le=256, description="Stages that run at once")
    worker_lease_seconds: Seconds = Field(
        30, ge=1, le=3_600, description="How long a worker holds an attempt between renewals"
    )
    worker_poll_seconds: Seconds = Field(
        1, ge=0.05, le=60, description="How often a worker looks for work it was not told of"
    )
    cancel_grace_seconds: Seconds = Field(
        30, ge=0, le=3_600, description="How long a running stage may take to stop after its task was cancelled"
    )
    task_retention_days: int = Field(
        90,
        ge=0,
        le=36_500,
        description="How long tasks that succeeded or were cancelled are kept; 0: for ever",
    )
    dead_letter_retention_days: int = Field(
        365, ge=0, le=36_500, description="How long tasks that failed are kept; 0: for ever"
    )
    key_retention_hours: KeyHours = Field(
        720,
        ge=0,
        le=876_000,
        description="How long idempotency keys are kept, and longer until their task ends: at least 24; 0: for ever",
    )
    readers: int = Field(2, ge=1, le=16, description="Reader connections on the SQLite file")
    secrets_dir: Place = Field(
        settings_sources.DEFAULT_SECRETS_DIR,
        description="Folder of secret files named like settings, used if it exists",
    )

    @classmethod
    def load(
        cls, environ: Mapping[str, str], *, folder: Path, needs_pipeline: bool = False, needs_tokens: bool = True
    ) -> Self:
        """Read the environment, then `folder/.env`, then the secrets folder; the first that has a setting counts.

        Relative paths start at `folder`. A process that serves or issues tokens `needs_tokens`; one that serves or
        works `needs_pipeline`. Raises BadSettings with all faults at once.
        """
        faults: list[str] = []
        texts = settings_sources.gather(environ, folder, frozenset(map(str.upper, cls.model_fields)), faults)
        values = _GivenTexts(cls, texts)()
        wrong = cls._wrong(values)
        faults += wrong.values()
        settings = cls(**{name: text for name, text in values.items() if name not in wrong})._rooted(folder)
        faults += settings._faults(frozenset(wrong), needs_pipeline=needs_pipeline, needs_tokens=needs_tokens)
        if faults:
            raise BadSettings(faults)
        return settings

    @property
    def in_memory(self) -> bool:
        """Whether everything is gone when the process ends."""
        return not self.use_sqlite and self.database_url is None

    @property
    def migrates(self) -> bool:
        """Whether migrations are applied at start; otherwise they are verified."""
        return self.app_env != "prod" or self.run_migrations or self.in_memory

    @property
    def strict_transport(self) -> bool:
        """Whether callers see the service under https, so that browsers shall come by it alone."""
        return self.public_origin is not None and self.public_origin.startswith("https:")

    def warnings(self) -> list[str]:
        """Return what an operator should know at start, one sentence each."""
        temporary = self.use_sqlite and settings_checks.is_temporary(self.db_path)
        previous = self.token_secret_previous is not None
        told = (
            (self.app_env != "prod", f"APP_ENV is {self.app_env}: migrations run at start and paths are not checked."),
            (self.in_memory, "USE_SQLITE is false: everything is kept in memory and lost when this process ends."),
            (temporary, f"DB_PATH {self.db_path} lies under a temporary folder: the machine may delete the database."),
            (
                not self.worker_embedded,
                "WORKER_EMBEDDED is false: on SQLite no other process can work beside this one, so tasks wait.",
            ),
            (self.rate_limit_client is None, "RATE_LIMIT_CLIENT is 0: a client may send as many requests as it likes."),
            (self.rate_limit_actor is None, "RATE_LIMIT_ACTOR is 0: a user may send as many requests as they like."),
            (
                self.key_retention_hours == 0 and self.task_retention_days + self.dead_letter_retention_days > 0,
                "KEY_RETENTION_HOURS is 0: keys are kept for ever, and with them the tasks that they name.",
            ),
            (
                self.log_level in ("warning", "error"),
                f"LOG_LEVEL is {self.log_level}: the log lacks the heads by which a cut-off audit is seen.",
            ),
            (previous, "TOKEN_SECRET_PREVIOUS is set: its tokens are still accepted; unset it when they have run out."),
        )
        return [sentence for holds, sentence in told if holds]

    @classmethod
    def table(cls) -> list[tuple[str, str, str]]:
        """Return name, default and meaning of every setting, as the README lists them; no default is an empty text."""
        return [(name.upper(), _default(field), str(field.description)) for name, field in cls.model_fields.items()]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 pydantic-settings passes all five by name
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Believe arguments only: pydantic's own sources accept unknown names and read the process's environment."""
        return (init_settings,)

    @classmethod
    def _wrong(cls, values: Mapping[str, Any]) -> dict[str, str]:
        """Return a sentence for each field whose text has the wrong shape."""
        try:
            cls(**values)
        except ValidationError as error:
            faults = {str(fault["loc"][0]): fault for fault in error.errors(include_url=False)}
            return {
                name: _sentence(name.upper(), cls.model_fields[name], faults[name]) for name in faults if name in values
            }
        return {}

    def _faults(self, wrong: frozenset[str], *, needs_pipeline: bool, needs_tokens: bool) -> Iterator[str]:
        """Yield what does not fit together or to the machine; a check that reads a `wrong` field is left out."""
        prod = self.app_env == "prod"
        secret, previous = self.token_secret, self.token_secret_previous
        checks: dict[tuple[str, ...], Iterable[str]] = {
            ("database_url",): url(self.database_url),
            ("metrics_port", "port"): ports(self.port, self.metrics_port),
            ("use_sqlite", "app_env"): memory(prod=prod, use_sqlite=self.use_sqlite),
            ("token_secret", "token_secret_previous", "oidc_issuer", "public_origin"): tokens(
                secret, previous, needed=needs_tokens and self.oidc_issuer is None and self.public_origin is None
            ),
            ("oidc_issuer", "oidc_audience", "oidc_jwks_url"): identity_provider(
                self.oidc_issuer, self.oidc_audience, self.oidc_jwks_url
            ),
            ("pipeline", "app_env"): pipeline(self.pipeline, needed=needs_pipeline),
            ("db_path", "app_env", "use_sqlite"): database(self.db_path, prod=prod) if self.use_sqlite else (),
            ("artifacts_dir", "app_env", "use_sqlite", "db_path"): artifacts(
                self.artifacts_dir, prod=prod, database=self.db_path
            ),
        }
        for fields, faults in checks.items():
            if wrong.isdisjoint(fields):
                yield from _reached(fields[0], faults)

    def _rooted(self, folder: Path) -> Self:
        return self.model_copy(update={name: folder / getattr(self, name) for name in self.PATHS})


class _GivenTexts(EnvSettingsSource):
    """Texts that `settings_sources` has read, in place of the process's environment."""

    def __init__(self, settings_cls: type[BaseSettings], texts: Mapping[str, str]) -> None:
        self._texts = texts
        super().__init__(settings_cls)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): text for name, text in self._texts.items()}


def _reached(field: str, faults: Iterable[str]) -> Iterator[str]:
    """Turn a path that cannot be looked at into a fault too."""
    try:
        yield from faults
    except OSError as error:
        yield f"{field.upper()} cannot be looked at ({error.strerror}); let this user reach it, or give another path."


def _sentence(name: str, field: FieldInfo, fault: Mapping[str, object]) -> str:
    """Say what is wrong with a value; pydantic's own words would not name what is accepted."""
    if fault["type"] == "value_error":
        return f"{name} {str(fault['msg']).removeprefix('Value error, ')}"
    return f"{name} is {shown(fault['input'])}; give {_accepted(field)}."


def _accepted(field: FieldInfo) -> str:
    """Describe the values of a switch, a number or a choice; every other form describes its own."""
    if field.annotation is bool:
        return "true or false"
    if field.annotation in (int, float):
        limits = {
            bound: getattr(rule, bound) for rule in field.metadata for bound in ("ge", "le") if hasattr(rule, bound)
        }
        return f"{'a whole number' if field.annotation is int else 'a number'} from {limits['ge']} to {limits['le']}"
    *choices, last = get_args(field.annotation)
    return f"{', '.join(choices)} or {last}"


def _default(field: FieldInfo) -> str:
    if field.default_factory or field.default in (None, ()):
        return ""
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
