"""Settings: where they come from, and what is told when they are wrong."""

import json
import pickle
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from app import settings_checks, settings_sources
from app.domain.users import is_subject
from app.errors import BadSettings
from app.settings import EXAMPLE_PIPELINE, RateLimit, Settings

SECRET = "marked-5ecre7-" + "x" * 32
OTHER_SECRET = "other-5ecre7-" + "y" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A working directory with a secrets folder, and a folder for the database that only its owner may write."""

    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "data" / "cabinet.db"

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    def environ(self, given: dict[str, str | None]) -> dict[str, str]:
        """Return an environment in which nothing is wrong, with what is given; None takes a name out."""
        usual = {"APP_ENV": "test", "DB_PATH": str(self.database), "TOKEN_SECRET": SECRET}
        usual |= {"SECRETS_DIR": str(self.secrets), "PATH": "/usr/bin", "HOME": "/home/cabinet"}
        return {name: value for name, value in (usual | given).items() if value is not None}

    def load(self, needs: dict[str, bool] | None = None, /, **given: str | None) -> Settings:
        return Settings.load(self.environ(given), folder=self.folder, **needs or {})

    def faults(self, needs: dict[str, bool] | None = None, /, **given: str | None) -> tuple[str, ...]:
        with pytest.raises(BadSettings) as caught:
            self.load(needs, **given)
        assert SECRET not in str(caught.value)
        return caught.value.faults

    def fault(self, needs: dict[str, bool] | None = None, /, **given: str | None) -> str:
        (fault,) = self.faults(needs, **given)
        return fault

    def write(self, name: str, text: str | bytes) -> None:
        (self.folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return a machine whose temporary folder is not the one that tests run in."""
    monkeypatch.setattr(settings_checks, "temporary_folders", lambda: (tmp_path / "temporary",))
    for name in ("data", "secrets", "temporary"):
        (tmp_path / name).mkdir(mode=0o700)
    return Machine(folder=tmp_path)


@pytest.fixture
def prod(machine: Machine) -> dict[str, str | None]:
    """Return what production needs besides."""
    return {"APP_ENV": "prod", "PIPELINE": "shop.tasks:pipeline"}


# Values --------------------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_design(machine: Machine) -> None:
    settings = machine.load()

    assert (settings.use_sqlite, settings.database_url, settings.run_migrations) == (True, None, False)
    assert (settings.host, settings.port, settings.public_origin, settings.forwarded_allow_ips) == (
        "127.0.0.1",
        8000,
        None,
        (),
    )
    assert (settings.token_secret_previous, settings.token_ttl_max) == (None, 30 * 24 * 3600)
    assert (settings.oidc_issuer, settings.oidc_audience, settings.oidc_jwks_url) == (None, None, None)
    assert (settings.cors_origins, settings.strict_transport) == ((), False)
    assert (settings.worker_embedded, settings.log_level) == (True, "info")
    assert settings.rate_limit_client == RateLimit(count=600, seconds=60)
    assert settings.rate_limit_actor == RateLimit(count=6000, seconds=60)
    assert (settings.metrics_host, settings.metrics_port, settings.drain_seconds) == ("127.0.0.1", None, 0)
    assert (settings.cancel_grace_seconds, settings.key_retention_hours) == (30, 30 * 24)
    assert (settings.task_retention_days, settings.dead_letter_retention_days) == (90, 365)
    assert Settings.model_fields["app_env"].default == "prod"
    assert Settings.model_fields["db_path"].default == Path("/tmp/cabinet.db")


def test_every_setting_can_be_given_as_text(machine: Machine) -> None:
    settings = machine.load(
        APP_ENV="dev",
        RUN_MIGRATIONS="1",
        HOST="::1",
        PORT="0",
        METRICS_HOST="::",
        METRICS_PORT="9464",
        PUBLIC_ORIGIN="https://cabinet.example.com",
        CORS_ORIGINS="https://Shop.example.com:443, http://localhost:5173",
        FORWARDED_ALLOW_IPS="10.0.0.5, 10.1.0.0/16,fd00::/8",
        TOKEN_SECRET_PREVIOUS=OTHER_SECRET,
        TOKEN_TTL_MAX="3600",
        OIDC_ISSUER="https://Login.example.com:8443/realms/staff/",
        OIDC_AUDIENCE="cabinet",
        OIDC_JWKS_URL="https://login.example.com/keys?p=staff",
        PIPELINE="shop.tasks:pipeline",
        WORKER_EMBEDDED="no",
        ARTIFACTS_DIR="/srv/artifacts",
        RATE_LIMIT_CLIENT="5/s",
        RATE_LIMIT_ACTOR="0",
        LOG_LEVEL="debug",
        BODY_LIMIT_BYTES="2048",
        REQUEST_TIMEOUT_SECONDS="1.5",
        RECEIVE_TIMEOUT_SECONDS="2",
        DRAIN_SECONDS="3",
        SHUTDOWN_GRACE_SECONDS="0",
        WORKER_CONCURRENCY="8",
        WORKER_LEASE_SECONDS="60",
        WORKER_POLL_SECONDS="0.05",
        CANCEL_GRACE_SECONDS="2.5",
        TASK_RETENTION_DAYS="7",
        DEAD_LETTER_RETENTION_DAYS="0",
        KEY_RETENTION_HOURS="24",
        READERS="3",
    )

    assert settings.model_dump(exclude={"token_secret", "token_secret_previous"}) == {
        "app_env": "dev",
        "db_path": machine.database,
        "use_sqlite": True,
        "database_url": None,
        "run_migrations": True,
        "host": "::1",
        "port": 0,
        "metrics_host": "::",
        "metrics_port": 9464,
        "public_origin": "https://cabinet.example.com",
        "cors_origins": ("https://shop.example.com", "http://localhost:5173"),
        "forwarded_allow_ips": ("10.0.0.5", "10.1.0.0/16", "fd00::/8"),
        "token_ttl_max": 3600,
        "oidc_issuer": "https://Login.example.com:8443/realms/staff/",
        "oidc_audience": "cabinet",
        "oidc_jwks_url": "https://login.example.com/keys?p=staff",
        "pipeline": "shop.tasks:pipeline",
        "worker_embedded": False,
        "artifacts_dir": Path("/srv/artifacts"),
        "rate_limit_client": {"count": 5, "seconds": 1},
        "rate_limit_actor": None,
        "log_level": "debug",
        "body_limit_bytes": 2048,
        "request_timeout_seconds": 1.5,
        "receive_timeout_seconds": 2,
        "drain_seconds": 3,
        "shutdown_grace_seconds": 0,
        "worker_concurrency": 8,
        "worker_lease_seconds": 60,
        "worker_poll_seconds": 0.05,
        "cancel_grace_seconds": 2.5,
        "task_retention_days": 7,
        "dead_letter_retention_days": 0,
        "key_retention_hours": 24,
        "readers": 3,
        "secrets_dir": machine.secrets,
    }
    assert settings.token_secret == SecretStr(SECRET)
    assert settings.token_secret_previous == SecretStr(OTHER_SECRET)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("600/min", RateLimit(count=600, seconds=60)),
        ("1/s", RateLimit(count=1, seconds=1)),
        ("20/sec", RateLimit(count=20, seconds=1)),
        ("7/h", RateLimit(count=7, seconds=3600)),
        ("7/hour", RateLimit(count=7, seconds=3600)),
        ("0", None),
    ],
)
def test_a_rate_is_a_count_and_a_unit(machine: Machine, text: str, limit: RateLimit | None) -> None:
    assert machine.load(RATE_LIMIT_CLIENT=text).rate_limit_client == limit


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (RateLimit(count=6, seconds=1), "6/s"),
        (RateLimit(count=6, seconds=60), "6/min"),
        (RateLimit(count=6, seconds=3600), "6/hour"),
        (RateLimit(count=6, seconds=5), "6/5s"),
    ],
)
def test_a_rate_is_written_as_its_setting(limit: RateLimit, text: str) -> None:
    assert str(limit) == text


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://Cabinet.Example.com", "https://cabinet.example.com"),
        ("https://cabinet.example.com:443", "https://cabinet.example.com"),
        ("http://cabinet:80", "http://cabinet"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_an_origin_is_kept_as_a_browser_sends_it(machine: Machine, text: str, origin: str) -> None:
    assert machine.load(PUBLIC_ORIGIN=text).public_origin == origin


def test_relative_paths_start_at_the_working_directory(machine: Machine) -> None:
    settings = machine.load(DB_PATH="data/my.db", ARTIFACTS_DIR="made", SECRETS_DIR="secrets")

    assert settings.db_path == machine.folder / "data/my.db"
    assert settings.artifacts_dir == machine.folder / "made"
    assert settings.secrets_dir == machine.folder / "secrets"


def test_artifacts_lie_beside_the_database(machine: Machine) -> None:
    assert machine.load().artifacts_dir == machine.database.parent / "artifacts"


def test_artifacts_of_a_database_in_memory_lie_in_the_working_directory(machine: Machine) -> None:
    assert machine.load(USE_SQLITE="false").artifacts_dir == machine.folder / ".cabinet" / "artifacts"


@pytest.mark.parametrize("environment", ["dev", "test"])
def test_the_example_is_the_pipeline_outside_of_production(machine: Machine, environment: str) -> None:
    assert machine.load(APP_ENV=environment).pipeline == EXAMPLE_PIPELINE


@pytest.mark.parametrize(
    ("given", "migrates"),
    [
        ({"APP_ENV": "dev"}, True),
        ({"APP_ENV": "test"}, True),
        ({"APP_ENV": "test", "USE_SQLITE": "false"}, True),
        ({"APP_ENV": "prod"}, False),
        ({"APP_ENV": "prod", "RUN_MIGRATIONS": "1"}, True),
    ],
)
def test_migrations_run_outside_of_production_or_when_asked(
    machine: Machine, prod: dict[str, str | None], given: dict[str, str | None], migrates: bool
) -> None:
    assert machine.load(**(prod | given)).migrates == migrates


def test_memory_migrates_whatever_the_environment() -> None:
    settings = Settings(app_env="prod", use_sqlite=False)

    assert settings.in_memory
    assert settings.migrates


def test_settings_are_frozen(machine: Machine) -> None:
    settings = machine.load()

    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]


def test_constructing_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1234")

    assert Settings(rate_limit_client=RateLimit(count=1, seconds=5), forwarded_allow_ips=("10.0.0.5",)).port == 8000


def test_the_table_names_every_setting_with_its_default_and_meaning() -> None:
    table = {name: (default, meaning) for name, default, meaning in Settings.table()}

    assert list(table) == [name.upper() for name in Settings.model_fields]
    assert {name: table[name][0] for name in ("PORT", "USE_SQLITE", "RATE_LIMIT_ACTOR", "DB_PATH", "PIPELINE")} == {
        "PORT": "8000",
        "USE_SQLITE": "true",
        "RATE_LIMIT_ACTOR": "6000/min",
        "DB_PATH": "/tmp/cabinet.db",
        "PIPELINE": "",
    }
    assert all(len(meaning) > 10 for _, meaning in table.values())


def test_no_secret_has_a_default() -> None:
    secrets = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}

    assert secrets == {"token_secret", "token_secret_previous", "database_url"}
    assert all(Settings.model_fields[name].default is None for name in secrets)


# Sources -------------------------------------------------------------------------------------------------------------


def test_the_environment_beats_the_env_file_beats_the_secrets_folder(machine: Machine) -> None:
    machine.write("secrets/PORT", "1")
    machine.write("secrets/READERS", "1")
    machine.write("secrets/LOG_LEVEL", "error\n")
    machine.write(".env", "PORT=2\nREADERS=2\n")

    settings = machine.load(PORT="3")

    assert (settings.port, settings.readers, settings.log_level) == (3, 2, "error")


def test_names_count_without_regard_to_case(machine: Machine) -> None:
    machine.write("secrets/readers", "5")
    machine.write(".env", "worker_Concurrency=6")

    settings = machine.load(port="7")

    assert (settings.port, settings.readers, settings.worker_concurrency) == (7, 5, 6)


def test_an_empty_value_is_no_value(machine: Machine) -> None:
    machine.write("secrets/HOST", "\n")
    machine.write(".env", "PORT=\nREADERS=3\n")

    settings = machine.load(READERS=" ", DATABASE_URL="")

    assert (settings.host, settings.port, settings.readers, settings.database_url) == ("127.0.0.1", 8000, 3, None)


def test_an_env_file_has_comments_quotes_and_exports_and_expands_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHO", "somebody")
    secret = "${WHO} # " + SECRET
    machine.write(".env", f"\ufeff# a comment\n\nexport PORT=9 # another\nTOKEN_SECRET_PREVIOUS='{secret}'\n")

    settings = machine.load()

    assert settings.port == 9
    assert settings.token_secret_previous == SecretStr(secret)


def test_folders_and_dotted_names_in_the_secrets_folder_are_left_alone(machine: Machine) -> None:
    (machine.secrets / "kubernetes.io").mkdir()
    (machine.secrets / "..2026_11_22").mkdir()
    machine.write("secrets/..2026_11_22/PORT", "5")
    machine.write("secrets/.hidden", "nothing of ours")
    (machine.secrets / "..data").symlink_to("..2026_11_22")
    (machine.secrets / "PORT").symlink_to("..data/PORT")

    assert machine.load().port == 5


def test_the_usual_secrets_folder_is_read_if_it_is_there(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_sources, "DEFAULT_SECRETS_DIR", machine.secrets)
    machine.write("secrets/PORT", "5")

    assert machine.load(SECRETS_DIR=None).port == 5


def test_the_usual_secrets_folder_need_not_be_there(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_sources, "DEFAULT_SECRETS_DIR", machine.folder / "missing")

    assert machine.load(SECRETS_DIR=None).port == 8000


def test_the_env_file_may_name_the_secrets_folder(machine: Machine) -> None:
    machine.write(".env", "SECRETS_DIR=secrets")
    machine.write("secrets/PORT", "5")

    assert machine.load(SECRETS_DIR=None).port == 5


@pytest.mark.parametrize(
    ("where", "name", "meant"),
    [
        (".env", "TOKEN_SECRETS", "TOKEN_SECRET"),
        (".env", "DBPATH", "DB_PATH"),
        ("secrets", "token_secret.txt", "TOKEN_SECRET"),
        ("secrets", "PIPELINES", "PIPELINE"),
    ],
)
def test_an_unknown_name_is_refused_with_the_one_that_was_meant(
    machine: Machine, where: str, name: str, meant: str
) -> None:
    machine.write(*((".env", f"# first\n{name}={SECRET}\n") if where == ".env" else (f"secrets/{name}", SECRET)))

    fault = machine.fault()

    place = "line 2 of .env" if where == ".env" else f"the secrets folder {machine.secrets}"
    assert fault == f"{name} in {place} is not a setting; did you mean {meant}? Rename it."


@pytest.mark.parametrize(("path", "text"), [(".env", "AWS_REGION=x"), ("secrets/AWS_REGION", "x")])
def test_an_unknown_name_that_is_near_to_nothing_is_refused_too(machine: Machine, path: str, text: str) -> None:
    machine.write(path, text)

    assert re.match(r"AWS_REGION in .* is not a setting; remove it, or look", machine.fault())


def test_the_secrets_folder_is_not_named_inside_itself(machine: Machine) -> None:
    machine.write("secrets/SECRETS_DIR", "/elsewhere")

    assert machine.fault().startswith("SECRETS_DIR in the secrets folder")


@pytest.mark.parametrize("line", ["JUST_A_NAME", "'quoted", "=x", 'PORT="5', "marked5ecre7"])
def test_a_line_that_cannot_be_read_is_told_by_its_number_alone(machine: Machine, line: str) -> None:
    machine.write(".env", f"READERS=2\n{line}\n")

    assert machine.fault() == (
        "There is no setting in line 2 of .env; write NAME=value, quoted if it holds # or spaces."
    )


def test_a_name_that_may_be_the_rest_of_a_secret_is_not_shown(machine: Machine) -> None:
    machine.write(".env", "MIIEvQIBADANBgkqhkiG9w0BAQEF==\n")

    assert machine.fault().startswith("A name in line 1 of .env is not a setting;")


@pytest.mark.parametrize(
    "name", ["DB_PTH", "DB_PATHS", "DB_PAHT", "DB_PATT", "BD_PATH", "db_pth", "_DB_PATH", "TOKEN_SECRTE"]
)
def test_an_environment_variable_one_slip_away_is_refused(machine: Machine, name: str) -> None:
    meant = "TOKEN_SECRET" if name.startswith("TOKEN") else "DB_PATH"

    fault = machine.fault(**{name: SECRET})

    shown = "A name" if name.startswith("_") else name
    assert fault == f"{shown} in the environment is not a setting; did you mean {meant}? Rename it."


@pytest.mark.parametrize("name", ["POST", "HOSTS", "PORTS", "DB_HASH", "DB_P", "HTAP_BD", "PATH_DB", "Z", "É"])
def test_other_environment_variables_are_none_of_our_business(machine: Machine, name: str) -> None:
    assert machine.load(**{name: "x"}).port == 8000


@pytest.mark.parametrize("where", ["the environment", ".env", "the secrets folder"])
def test_the_same_name_twice_in_one_place_is_refused(machine: Machine, where: str) -> None:
    given: dict[str, str | None] = {"PORT": "1", "port": "2"} if where == "the environment" else {}
    if where == ".env":
        machine.write(".env", "PORT=1\nport=\n")
    if where == "the secrets folder":
        machine.write("secrets/PORT", "1")
        machine.write("secrets/port", "2")

    assert machine.fault(**given) == f"PORT is given twice in {where}; keep one of them."


@pytest.mark.parametrize(
    ("path", "called"), [(".env", ".env"), ("secrets/PORT", "The file PORT in the secrets folder")]
)
@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"\xff\xfe", "is not UTF-8; write it"),
        (b"#" * 70_000, "is larger than 65536 bytes; put"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    machine: Machine, path: str, called: str, content: bytes | None, wrong: str
) -> None:
    if content is None:
        (machine.folder / path).symlink_to(machine.folder / "missing")
    else:
        machine.write(path, content)

    assert machine.fault().startswith(f"{called} {wrong}")


def test_an_env_file_that_is_a_folder_is_refused(machine: Machine) -> None:
    (machine.folder / ".env").mkdir()

    assert machine.fault() == ".env cannot be read (Is a directory); let this user read it or remove it."


def test_a_working_directory_that_is_none_is_told(machine: Machine) -> None:
    machine.write("file", "")

    with pytest.raises(BadSettings, match=r"\.env cannot be read \(Not a directory\)"):
        Settings.load(machine.environ({}), folder=machine.folder / "file")


def test_a_secrets_folder_that_is_missing_is_refused(machine: Machine) -> None:
    folder = machine.folder / "missing"

    assert machine.fault(SECRETS_DIR=str(folder)) == (
        f"SECRETS_DIR '{folder}' cannot be listed (No such file or directory); give a folder that can be read."
    )


def test_a_secrets_folder_that_is_no_path_is_refused(machine: Machine) -> None:
    machine.write(".env", 'SECRETS_DIR="a\0b"')

    first, second = machine.faults(SECRETS_DIR=None)

    assert "cannot be listed (it is not a path)" in first
    assert second == r"SECRETS_DIR is 'a\x00b'; give a path without control characters."


# Faults of one value -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("APP_ENV", "production", "APP_ENV is 'production'; give dev, test or prod."),
        ("LOG_LEVEL", "INFO", "LOG_LEVEL is 'INFO'; give debug, info, warning or error."),
        ("USE_SQLITE", "maybe", "USE_SQLITE is 'maybe'; give true or false."),
        ("WORKER_EMBEDDED", "2", "WORKER_EMBEDDED is '2'; give true or false."),
        ("RUN_MIGRATIONS", "later", "RUN_MIGRATIONS is 'later'; give true or false."),
        ("PORT", "http", "PORT is 'http'; give a whole number from 0 to 65535."),
        ("PORT", "65536", "PORT is '65536'; give a whole number from 0 to 65535."),
        ("PORT", "-1", "PORT is '-1'; give a whole number from 0 to 65535."),
        ("TOKEN_TTL_MAX", "0", "TOKEN_TTL_MAX is '0'; give a whole number from 1 to 31536000."),
        ("BODY_LIMIT_BYTES", "1023", "BODY_LIMIT_BYTES is '1023'; give a whole number from 1024 to 67108864."),
        ("REQUEST_TIMEOUT_SECONDS", "0", "REQUEST_TIMEOUT_SECONDS is '0'; give a number from 0.1 to 600."),
        ("RECEIVE_TIMEOUT_SECONDS", "601", "RECEIVE_TIMEOUT_SECONDS is '601'; give a number from 0.1 to 600."),
        ("SHUTDOWN_GRACE_SECONDS", "-1", "SHUTDOWN_GRACE_SECONDS is '-1'; give a number from 0 to 600."),
        ("WORKER_CONCURRENCY", "257", "WORKER_CONCURRENCY is '257'; give a whole number from 1 to 256."),
        ("WORKER_LEASE_SECONDS", "inf", "WORKER_LEASE_SECONDS is 'inf'; give a number from 1 to 3600."),
        ("WORKER_POLL_SECONDS", "nan", "WORKER_POLL_SECONDS is 'nan'; give a number from 0.05 to 60."),
        ("CANCEL_GRACE_SECONDS", "-1", "CANCEL_GRACE_SECONDS is '-1'; give a number from 0 to 3600."),
        ("CANCEL_GRACE_SECONDS", "3601", "CANCEL_GRACE_SECONDS is '3601'; give a number from 0 to 3600."),
        ("TASK_RETENTION_DAYS", "1.5", "TASK_RETENTION_DAYS is '1.5'; give a whole number from 0 to 36500."),
        (
            "DEAD_LETTER_RETENTION_DAYS",
            "-1",
            "DEAD_LETTER_RETENTION_DAYS is '-1'; give a whole number from 0 to 36500.",
        ),
        ("KEY_RETENTION_HOURS", "876001", "KEY_RETENTION_HOURS is '876001'; give a whole number from 0 to 876000."),
        ("READERS", "17", "READERS is '17'; give a whole number from 1 to 16."),
        ("HOST", "a b", "HOST is 'a b'; give an address such as 127.0.0.1 or ::, or a host name."),
        ("HOST", "\udcff", r"HOST is '\udcff'; give an address such as 127.0.0.1 or ::, or a host name."),
        ("ARTIFACTS_DIR", "a\nb", r"ARTIFACTS_DIR is 'a\nb'; give a path without control characters."),
        ("PIPELINE", "shop.tasks", "PIPELINE is 'shop.tasks'; write module:attribute, such as shop.tasks:pipeline."),
        ("PIPELINE", "a b:c", "PIPELINE is 'a b:c'; write module:attribute, such as shop.tasks:pipeline."),
        ("PIPELINE", ".a:b", "PIPELINE is '.a:b'; write module:attribute, such as shop.tasks:pipeline."),
        (
            "DATABASE_URL",
            f"postgresql://u:{SECRET}@h/d",
            "DATABASE_URL is set, but PostgreSQL comes in a later version; unset it.",
        ),
    ],
)
def test_a_value_in_the_wrong_shape_is_refused_with_the_values_that_are_accepted(
    machine: Machine, name: str, text: str, fault: str
) -> None:
    assert machine.fault(**{name: text}) == fault


@pytest.mark.parametrize("hours", ["1", "23"])
def test_a_key_is_not_forgotten_while_its_caller_may_still_send_again(machine: Machine, hours: str) -> None:
    assert machine.fault(KEY_RETENTION_HOURS=hours) == (
        f"KEY_RETENTION_HOURS is {hours}; callers may send again for 24 hours, so give 24 or more, or 0."
    )


@pytest.mark.parametrize("hours", [0, 24, 876_000])
def test_a_key_is_kept_for_a_day_at_least_or_for_ever(machine: Machine, hours: int) -> None:
    assert machine.load(KEY_RETENTION_HOURS=str(hours)).key_retention_hours == hours


@pytest.mark.parametrize("name", ["RATE_LIMIT_CLIENT", "RATE_LIMIT_ACTOR"])
@pytest.mark.parametrize("text", ["600", "600/day", "-1/s", "0/min", "1.5/s", "/s", "600 / min", "9999999999/s", "off"])
def test_a_rate_in_another_form_is_refused(machine: Machine, name: str, text: str) -> None:
    assert machine.fault(**{name: text}) == (
        f"{name} is '{text}'; write such as 600/min (units: s, sec, min, h, hour), or 0 for none."
    )


@pytest.mark.parametrize(
    "text",
    [
        "cabinet.example.com",
        "https://cabinet.example.com/",
        "https://cabinet.example.com/path",
        f"https://user:{SECRET}@cabinet.example.com",
        "ftp://cabinet.example.com",
        "https://cabinet.example.com:0",
        "https://cabinet.example.com:65536",
        "https://a,b",
        "https://",
        "*",
    ],
)
def test_what_is_no_origin_is_refused(machine: Machine, text: str) -> None:
    assert machine.fault(PUBLIC_ORIGIN=text) == (
        "PUBLIC_ORIGIN is not an origin; write scheme and host without a path, such as https://cabinet.example.com."
    )


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("shop.example.com", 1),
        ("https://a.example.com,https://b.example.com/", 2),
        ("https://a.example.com,,https://b.example.com", 2),
        ("https://*.example.com", 1),
        ("null", 1),
        (f"https://a.example.com,https://user:{SECRET}@b.example.com", 2),
    ],
)
def test_what_is_no_origin_is_not_listed(machine: Machine, text: str, place: int) -> None:
    assert machine.fault(CORS_ORIGINS=text) == (
        f"CORS_ORIGINS has at place {place} what is not an origin; write scheme and host without a path, such as"
        " https://cabinet.example.com."
    )


@pytest.mark.parametrize("text", ["*", "https://a.example.com, *"])
def test_not_every_origin_can_be_listed(machine: Machine, text: str) -> None:
    assert machine.fault(CORS_ORIGINS=text) == (
        "CORS_ORIGINS names '*', which would let every page call; name the origins whose pages may."
    )


@pytest.mark.parametrize(
    ("origin", "is_strict"), [(None, False), ("http://cabinet", False), ("HTTPS://cabinet.example.com", True)]
)
def test_browsers_shall_come_by_https_alone_where_callers_see_it(
    machine: Machine, origin: str | None, is_strict: bool
) -> None:
    assert machine.load(PUBLIC_ORIGIN=origin).strict_transport is is_strict


@pytest.mark.parametrize("text", ["*", "10.0.0.5,*", "0.0.0.0/0", "::/0"])
def test_believing_every_proxy_is_refused(machine: Machine, text: str) -> None:
    fault = machine.fault(FORWARDED_ALLOW_IPS=text)

    assert "would believe an address that the caller has written; name the address or network of your proxy." in fault


@pytest.mark.parametrize("text", ["proxy", "10.0.0.5/8", "10.0.0.5,", "10.0.0.256", "10.0.0.5;10.0.0.6"])
def test_what_is_no_address_and_no_network_is_refused(machine: Machine, text: str) -> None:
    fault = machine.fault(FORWARDED_ALLOW_IPS=text)

    assert fault.startswith("FORWARDED_ALLOW_IPS names ")
    assert fault.endswith("; give addresses or networks such as 10.0.0.5,10.1.0.0/16.")


def test_a_long_value_is_cut(machine: Machine) -> None:
    assert len(machine.fault(HOST=" x" * 10_000)) < 300


# Secrets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ["dev", "test", "prod"])
def test_no_environment_starts_without_a_secret(
    machine: Machine, prod: dict[str, str | None], environment: str
) -> None:
    fault = machine.fault(**(prod | {"APP_ENV": environment, "TOKEN_SECRET": None}))

    assert fault.startswith("TOKEN_SECRET is missing, so nobody could authenticate; make one with: python -c ")


def test_a_command_that_needs_no_tokens_needs_no_secret(machine: Machine) -> None:
    assert machine.load({"needs_tokens": False}, TOKEN_SECRET=None).token_secret is None


@pytest.mark.parametrize("name", ["TOKEN_SECRET", "TOKEN_SECRET_PREVIOUS"])
@pytest.mark.parametrize("secret", ["5ecre7", "x" * 31, "é" * 15])
def test_a_secret_is_at_least_32_bytes(machine: Machine, name: str, secret: str) -> None:
    fault = machine.fault(**{name: secret})

    assert fault.startswith(f"{name} is shorter than 32 bytes; make one with: python -c ")
    assert secret not in fault


def test_bytes_count_and_not_letters(machine: Machine) -> None:
    assert machine.load(TOKEN_SECRET="é" * 16).token_secret == SecretStr("é" * 16)


def test_a_secret_that_is_not_text_is_refused(machine: Machine) -> None:
    assert machine.fault(TOKEN_SECRET=SECRET + "\udcff") == "TOKEN_SECRET is not text; write it in UTF-8."


def test_a_previous_secret_alone_is_a_contradiction(machine: Machine) -> None:
    assert machine.fault(TOKEN_SECRET=None, TOKEN_SECRET_PREVIOUS=SECRET) == (
        "TOKEN_SECRET_PREVIOUS is set without TOKEN_SECRET; set TOKEN_SECRET, or unset TOKEN_SECRET_PREVIOUS."
    )


def test_a_previous_secret_that_is_the_present_one_is_a_contradiction(machine: Machine) -> None:
    assert machine.fault(TOKEN_SECRET_PREVIOUS=SECRET) == (
        "TOKEN_SECRET and TOKEN_SECRET_PREVIOUS are the same; make a new TOKEN_SECRET, or unset the other."
    )


def test_a_secret_shows_nowhere(machine: Machine) -> None:
    settings = machine.load(TOKEN_SECRET_PREVIOUS=OTHER_SECRET)

    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()} {settings.warnings()}"

    assert "5ecre7" not in shown
    assert json.loads(settings.model_dump_json())["token_secret"] == "**********"


def test_a_secret_does_not_show_in_pydantics_own_error() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(token_secret="5ecre7", port="5ecre7")

    assert "5ecre7" not in str(caught.value)


def test_an_error_of_settings_carries_no_other_error(machine: Machine) -> None:
    with pytest.raises(BadSettings) as caught:
        machine.load(TOKEN_SECRET="5ecre7")

    assert caught.value.__context__ is None
    assert "5ecre7" not in str(pickle.dumps(caught.value.args))


# Identity provider ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "issuer",
    [
        "https://login.example.com",
        "https://login.example.com/",
        "https://login.example.com/realms/staff",
        "https://10.0.0.5:8443/a:b@c|d+e",
        "http://localhost:9400",
        "http://127.0.0.1:9400",
    ],
)
def test_an_issuer_is_kept_as_it_is_written_and_can_begin_a_subject(machine: Machine, issuer: str) -> None:
    assert machine.load(OIDC_ISSUER=issuer, OIDC_AUDIENCE="cabinet").oidc_issuer == issuer
    assert is_subject(f"{issuer}#a")


@pytest.mark.parametrize(
    "issuer",
    [
        "login.example.com",
        "https://",
        "ftp://login.example.com",
        "HTTPS://login.example.com",
        "https://login.example.com?tenant=a",
        "https://login.example.com/#a",
        "https://user@login.example.com",
        "https://login.example.com/a b",
        "https://login.example.com/%61",
        "https://login.example.com:port",
        "https://login.example.com/" + "a" * 200,
    ],
)
def test_what_is_no_issuer_is_refused(machine: Machine, issuer: str) -> None:
    fault = machine.fault(OIDC_ISSUER=issuer, OIDC_AUDIENCE="cabinet")

    assert re.match(r"OIDC_ISSUER is '.*; write it as the provider does, https:// and host, ", fault)


@pytest.mark.parametrize(
    "url",
    [
        "login.example.com/jwks",
        "https://",
        "file:///jwks",
        "https://user:5ecre7@login.example.com/jwks",
        "https://login.example.com/jwks#a",
        "https://login.example.com/a b",
        "https://login.example.com:99999/jwks",
        "https://[::1/jwks",
        "https://login.example.com/" + "a" * 500,
    ],
)
def test_what_is_no_address_of_keys_is_refused(machine: Machine, url: str) -> None:
    fault = machine.fault(OIDC_ISSUER="https://a.example.com", OIDC_AUDIENCE="cabinet", OIDC_JWKS_URL=url)

    assert fault.startswith("OIDC_JWKS_URL is not the address of a key set; write such as https://")
    assert "5ecre7" not in fault


@pytest.mark.parametrize("host", ["login.example.com", "127.0.0.2", "localhost.example.com", "10.0.0.5"])
def test_a_provider_is_asked_over_tls_unless_it_is_this_machine(machine: Machine, host: str) -> None:
    (first, second) = machine.faults(
        OIDC_ISSUER=f"http://{host}", OIDC_AUDIENCE="cabinet", OIDC_JWKS_URL=f"http://{host}/jwks"
    )

    told = "where anybody on the way could put keys of their own; write https://."
    assert first == f"OIDC_ISSUER is 'http://{host}', {told}"
    assert second == f"OIDC_JWKS_URL is 'http://{host}/jwks', {told}"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_this_machine_may_be_asked_for_keys_without_tls(machine: Machine, host: str) -> None:
    url = f"http://{host}:9400/jwks"

    settings = machine.load(OIDC_ISSUER="https://a.example.com", OIDC_AUDIENCE="cabinet", OIDC_JWKS_URL=url)

    assert settings.oidc_jwks_url == url


@pytest.mark.parametrize("audience", ["a b", "a\tb", "é", "a" * 256])
def test_what_is_no_audience_is_refused(machine: Machine, audience: str) -> None:
    fault = machine.fault(OIDC_ISSUER="https://a.example.com", OIDC_AUDIENCE=audience)

    assert re.match(r"OIDC_AUDIENCE is '.*; write what the provider puts into aud", fault)


def test_an_issuer_without_an_audience_would_let_in_whoever_uses_its_other_services(machine: Machine) -> None:
    assert machine.fault(OIDC_ISSUER="https://a.example.com").startswith("OIDC_AUDIENCE is missing, so the provider's")


def test_what_belongs_to_an_issuer_needs_one(machine: Machine) -> None:
    faults = machine.faults(OIDC_AUDIENCE="cabinet", OIDC_JWKS_URL="https://a.example.com/jwks")

    assert faults == tuple(
        f"{name} is set without OIDC_ISSUER; set OIDC_ISSUER, or unset {name}."
        for name in ("OIDC_AUDIENCE", "OIDC_JWKS_URL")
    )


@pytest.mark.parametrize(
    "given",
    [
        {"OIDC_ISSUER": "https://a.example.com", "OIDC_AUDIENCE": "cabinet"},
        {"PUBLIC_ORIGIN": "https://cabinet.example.com"},
    ],
)
def test_who_can_authenticate_otherwise_needs_no_secret(machine: Machine, given: dict[str, str | None]) -> None:
    assert machine.load(TOKEN_SECRET=None, **given).token_secret is None


# Worker --------------------------------------------------------------------------------------------------------------


def test_who_serves_or_works_in_production_needs_a_pipeline(machine: Machine, prod: dict[str, str | None]) -> None:
    fault = machine.fault({"needs_pipeline": True}, **(prod | {"PIPELINE": None}))

    assert fault == "PIPELINE is missing, so tasks have no stages to go through; set it to module:attribute."


@pytest.mark.parametrize("needs", [{}, {"needs_tokens": False}])
def test_what_only_administers_needs_no_pipeline(
    machine: Machine, prod: dict[str, str | None], needs: dict[str, bool]
) -> None:
    assert machine.load(needs, **(prod | {"PIPELINE": None})).pipeline is None


# Paths ---------------------------------------------------------------------------------------------------------------


def test_production_starts_where_nothing_is_wrong(machine: Machine, prod: dict[str, str | None]) -> None:
    machine.database.touch(mode=0o600)

    settings = machine.load(**prod)

    assert (settings.app_env, settings.migrates, settings.warnings()) == ("prod", False, [])


@pytest.mark.parametrize("environment", ["dev", "test", "prod"])
def test_a_database_needs_a_folder_to_lie_in(machine: Machine, prod: dict[str, str | None], environment: str) -> None:
    folder = machine.folder / "new folder"

    fault = machine.fault(**(prod | {"APP_ENV": environment, "DB_PATH": str(folder / "cabinet.db")}))

    assert fault == f"DB_PATH {folder}/cabinet.db has no folder to lie in; make it with: mkdir -p -m 700 '{folder}'"


def test_a_database_is_a_file(machine: Machine) -> None:
    assert machine.fault(DB_PATH=str(machine.secrets)) == (
        f"DB_PATH {machine.secrets} is not a file; give the path of the database file."
    )


def test_a_database_in_memory_needs_no_folder(machine: Machine) -> None:
    assert machine.load(USE_SQLITE="false", DB_PATH="/missing/cabinet.db").in_memory


def test_production_keeps_nothing_in_memory(machine: Machine, prod: dict[str, str | None]) -> None:
    assert machine.fault(**prod, USE_SQLITE="0") == (
        "USE_SQLITE is false, which loses every task when the process ends; in prod set it to true or unset it."
    )


def test_production_refuses_artifacts_in_a_temporary_folder(machine: Machine, prod: dict[str, str | None]) -> None:
    fault = machine.fault(**prod, ARTIFACTS_DIR=str(machine.folder / "temporary" / "artifacts"))

    assert fault == (
        f"ARTIFACTS_DIR {machine.folder}/temporary/artifacts lies under a temporary folder, which the machine may "
        "empty; give one that lasts."
    )


@pytest.mark.parametrize("linked", [False, True])
def test_production_refuses_a_temporary_folder_also_behind_a_link(
    machine: Machine, prod: dict[str, str | None], linked: bool
) -> None:
    folder = machine.folder / "temporary"
    if linked:
        (machine.folder / "link").symlink_to(folder)
        folder = machine.folder / "link"

    fault = machine.fault(**prod, DB_PATH=str(folder / "cabinet.db"))

    assert fault == (
        f"DB_PATH {folder}/cabinet.db lies under a temporary folder, which the machine may empty; "
        "give a folder that lasts."
    )


def test_the_temporary_folders_are_those_of_the_machine() -> None:
    folders = settings_checks.temporary_folders()

    assert {Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path(tempfile.gettempdir())} == set(folders)


def test_the_default_path_is_refused_in_production() -> None:
    assert settings_checks.is_temporary(Settings().db_path)


@pytest.mark.parametrize("mode", [0o020, 0o002, 0o022])
@pytest.mark.parametrize("what", ["file", "folder", "artifacts"])
def test_production_refuses_what_others_may_write(
    machine: Machine, prod: dict[str, str | None], what: str, mode: int
) -> None:
    machine.database.touch(mode=0o600)
    artifacts = machine.database.parent / "artifacts"
    artifacts.mkdir(mode=0o700)
    path = {"file": machine.database, "folder": machine.database.parent, "artifacts": artifacts}[what]
    path.chmod(path.stat().st_mode | mode)

    fault = machine.fault(**prod)

    name = "ARTIFACTS_DIR" if what == "artifacts" else "DB_PATH"
    assert fault == f"{name}: {path} may be written by others than its owner; run: chmod go-w {path}"


@pytest.mark.parametrize("environment", ["dev", "test"])
def test_outside_of_production_others_may_write(machine: Machine, environment: str) -> None:
    machine.database.parent.chmod(0o777)

    assert machine.load(APP_ENV=environment).app_env == environment


def test_production_looks_at_the_folders_of_a_link_and_of_its_target(
    machine: Machine, prod: dict[str, str | None]
) -> None:
    links, targets = machine.folder / "links", machine.folder / "targets"
    for folder in (links, targets):
        folder.mkdir()
        folder.chmod(0o777)
    (targets / "cabinet.db").touch(mode=0o600)
    (links / "cabinet.db").symlink_to(targets / "cabinet.db")

    faults = machine.faults(**prod, DB_PATH=str(links / "cabinet.db"), ARTIFACTS_DIR=str(machine.folder / "made"))

    assert [fault.rsplit(" ", 1)[-1] for fault in faults] == [str(links), str(targets)]


def test_artifacts_lie_in_a_folder(machine: Machine) -> None:
    machine.write("file", "")

    assert machine.fault(ARTIFACTS_DIR="file") == (
        f"ARTIFACTS_DIR {machine.folder}/file is not a folder; give the path of a folder."
    )


def test_a_path_that_cannot_be_looked_at_is_told(machine: Machine) -> None:
    fault = machine.fault(ARTIFACTS_DIR="x" * 300)

    assert fault == (
        "ARTIFACTS_DIR cannot be looked at (File name too long); let this user reach it, or give another path."
    )


def test_links_that_go_round_in_a_circle_are_told(machine: Machine, prod: dict[str, str | None]) -> None:
    machine.database.symlink_to(machine.database)

    assert machine.fault(**prod).startswith("DB_PATH cannot be looked at (Too many levels of symbolic links);")


# All at once ---------------------------------------------------------------------------------------------------------


def test_all_faults_are_told_at_once(machine: Machine, prod: dict[str, str | None]) -> None:
    machine.database.parent.chmod(0o770)
    machine.write(".env", "NONSENSE=1\nnothing\n")
    machine.write("secrets/readers", "many")

    faults = machine.faults(
        {"needs_pipeline": True},
        **(prod | {"PIPELINE": None, "DB_PTH": "x", "PORT": "x", "DATABASE_URL": SECRET, "TOKEN_SECRET": None}),
    )

    assert [re.split(r"[ :]", fault)[0] for fault in faults] == [
        "DB_PTH",
        "NONSENSE",
        "There",
        "PORT",
        "READERS",
        "DATABASE_URL",
        "TOKEN_SECRET",
        "PIPELINE",
        "DB_PATH",
    ]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"APP_ENV": "x", "PIPELINE": None}, "APP_ENV is"),
        ({"USE_SQLITE": "x", "DB_PATH": "/missing/cabinet.db"}, "USE_SQLITE is"),
        ({"TOKEN_SECRET": "short", "TOKEN_SECRET_PREVIOUS": SECRET}, "TOKEN_SECRET is shorter"),
        ({"TOKEN_SECRET": None, "OIDC_ISSUER": "x", "OIDC_AUDIENCE": "cabinet"}, "OIDC_ISSUER is"),
        ({"TOKEN_SECRET": None, "PUBLIC_ORIGIN": "x"}, "PUBLIC_ORIGIN is"),
        ({"OIDC_ISSUER": "https://a.example.com", "OIDC_AUDIENCE": "a b"}, "OIDC_AUDIENCE is"),
        ({"WORKER_EMBEDDED": "x", "PIPELINE": None}, "WORKER_EMBEDDED is"),
        ({"DB_PATH": "a\tb"}, "DB_PATH is"),
    ],
)
def test_a_wrong_value_draws_no_fault_that_only_follows_from_it(
    machine: Machine, prod: dict[str, str | None], given: dict[str, Any], fault: str
) -> None:
    assert machine.fault(**(prod | given)).startswith(fault)


def test_the_faults_are_lines_of_the_message(machine: Machine) -> None:
    with pytest.raises(BadSettings) as caught:
        machine.load(PORT="x", READERS="y")

    assert str(caught.value) == "\n".join(caught.value.faults)
    assert caught.value.exit_code == 3


# Warnings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "warning"),
    [
        ({"RATE_LIMIT_CLIENT": "0"}, "RATE_LIMIT_CLIENT is 0:"),
        ({"RATE_LIMIT_ACTOR": "0"}, "RATE_LIMIT_ACTOR is 0:"),
        ({"TOKEN_SECRET_PREVIOUS": OTHER_SECRET}, "TOKEN_SECRET_PREVIOUS is set:"),
    ],
)
def test_what_is_allowed_and_may_surprise_is_a_warning(
    machine: Machine, prod: dict[str, str | None], given: dict[str, str | None], warning: str
) -> None:
    (told,) = machine.load(**(prod | given)).warnings()

    assert told.startswith(warning)


def test_outside_of_production_the_environment_and_the_place_of_the_data_are_warnings(machine: Machine) -> None:
    in_memory = machine.load(APP_ENV="dev", USE_SQLITE="false").warnings()
    temporary = machine.load(DB_PATH=str(machine.folder / "temporary" / "cabinet.db")).warnings()

    assert [warning.split()[0] for warning in in_memory] == ["APP_ENV", "USE_SQLITE"]
    assert [warning.split()[0] for warning in temporary] == ["APP_ENV", "DB_PATH"]
