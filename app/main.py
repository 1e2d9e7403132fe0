"""The composition root: the Container that puts everything together; the command line and the testing kit use it."""

import asyncio
import importlib
import logging
import os
import random
import secrets
import shutil
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from pathlib import Path

from starlette.applications import Starlette
from starlette.types import ASGIApp

from app.clock import Clock, SystemClock
from app.db.connection import Queries, SchemaTarget
from app.db.migrations import MigrationsRunner, load_migrations
from app.db.ownership import own
from app.db.queries import load_queries
from app.db.sqlite import SQLITE_VERSION, SqliteConnectionFactory
from app.db.store import SqliteStore
from app.domain.keys import SigningKey
from app.domain.retention import Retention
from app.errors import BadSettings, StorageFailed
from app.log import event
from app.metrics import Metrics, Sample, StageSample
from app.pipelines import Pipeline
from app.security.authentication import Authentication
from app.security.denials import Denials
from app.security.identity_provider import IdentityProvider
from app.security.nonces import prune_nonces_now_and_then
from app.security.rate_limits import RateLimiter
from app.security.signatures import Signatures
from app.security.tokens import Tokens
from app.services.leases import TAKE_BACK_LIMIT, Crashes, take_back_all
from app.services.queue import Recorded
from app.services.readiness import Readiness
from app.services.sampling import Sampling
from app.services.sealing import Sealer
from app.settings import RateLimit, Settings
from app.unit import UnitOfWork
from app.wakeups import Wakeups
from app.web.application import build
from app.web.guard import Gatehouse
from app.web.metrics_page import metrics_page
from app.web.quotas import Quotas
from app.web.routes import Parts, route_table
from app.worker.options import WorkerOptions
from app.worker.worker import Worker

ASKING_LIMIT = RateLimit(count=20, seconds=60)
"""How often an address may ask for access, so that it takes a while to fill what may wait for an answer."""

SQL = Path(__file__).resolve().parent.parent / "sql"

_log = logging.getLogger(__name__)


class Container:
    """All parts of one process, made from its settings; the database is opened by `open` and not before.

    `pipeline` and `clock` replace the ones that the settings and the machine give.
    """

    def __init__(self, settings: Settings, *, pipeline: Pipeline | None = None, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.wakeups = Wakeups()
        self.has_failed = False
        self.on_failure: Callable[[], None] = lambda: None
        """What ends the process when the database has failed; whoever serves sets it."""
        self.metrics = Metrics()
        self.metrics.tell_build(engine=SqliteConnectionFactory.engine, engine_version=SQLITE_VERSION)
        queries = _queries(SqliteConnectionFactory.engine)
        self.factory = SqliteConnectionFactory(None if settings.in_memory else settings.db_path)
        self.store: SqliteStore[UnitOfWork] = SqliteStore(
            self.factory,
            lambda connection: UnitOfWork(connection, queries, self.clock),
            readers=settings.readers,
            on_failure=self._fail,
            metrics=self.metrics,
        )
        self.readiness = Readiness(self.store, monotonic=time.monotonic)
        self.denials = Denials(self.store, monotonic=time.monotonic)
        self.provider = self._identity_provider()
        self._pipeline = pipeline
        self._worker: Worker | None = None

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of this process, imported when it is first asked for; BadSettings if that fails."""
        if self._pipeline is None:
            self._pipeline = load_pipeline(self.settings.pipeline or "")
        return self._pipeline

    def migrations(self) -> MigrationsRunner:
        """Return what applies or verifies the schema."""
        return MigrationsRunner(load_migrations(SQL / "migrations", engine=self.factory.engine), clock=self.clock)

    def tokens(self) -> Tokens | None:
        """Return what issues and verifies bearer tokens of our own; None without a secret to sign them."""
        secrets = [self.settings.token_secret, self.settings.token_secret_previous]
        given = [secret.get_secret_value() for secret in secrets if secret is not None]
        return Tokens(given, ttl_max_seconds=self.settings.token_ttl_max, clock=self.clock) if given else None

    def signatures(self) -> Signatures:
        """Return what verifies signed requests."""

        async def find(key_id: str) -> SigningKey | None:
            return await self.store.read(lambda work: work.signing_keys.by_id(key_id))

        return Signatures(origin=self.settings.public_origin, clock=self.clock, find_key=find)

    def application(self, *, with_lifespan: bool = False) -> Starlette:
        """Return the ASGI application; with a lifespan it opens and closes the container itself."""
        tokens = self.tokens()
        parts = Parts(
            tokens=tokens,
            token_ttl_max_seconds=self.settings.token_ttl_max,
            shape=self.pipeline.shape,
            cancel_grace_seconds=self.settings.cancel_grace_seconds,
            check_payload=self.pipeline.check_payload,
            readiness=self.readiness,
        )
        self.readiness.stages = self.pipeline.names
        gatehouse = Gatehouse(
            store=self.store,
            authentication=Authentication(tokens=tokens, provider=self.provider, signatures=self.signatures()),
            denials=self.denials,
            quotas=self._quotas(),
            wakeups=self.wakeups,
            body_limit_bytes=self.settings.body_limit_bytes,
            timeout_seconds=self.settings.request_timeout_seconds,
            receive_timeout_seconds=self.settings.receive_timeout_seconds,
        )
        return build(
            route_table(parts),
            gatehouse,
            self.metrics,
            cors_origins=self.settings.cors_origins,
            strict_transport=self.settings.strict_transport,
            lifespan=self._lifespan if with_lifespan else None,
        )

    def metrics_application(self) -> ASGIApp:
        """Return the application that shows the metrics; the container must be open."""
        self.metrics.expect(self.pipeline.names)
        sampling = Sampling(self.store, self.pipeline.shape, monotonic=time.monotonic)

        async def text() -> bytes:
            return self.metrics.text(self._sample(await sampling.stages()))

        return metrics_page(text)

    def worker(self) -> Worker:
        """Return a worker for this process."""
        options = WorkerOptions(
            name=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(2)}",
            artifacts_dir=self.settings.artifacts_dir,
            concurrency=self.settings.worker_concurrency,
            lease_seconds=self.settings.worker_lease_seconds,
            poll_seconds=self.settings.worker_poll_seconds,
            grace_seconds=self.settings.shutdown_grace_seconds,
            retention=self._retention(),
        )
        return Worker(
            self.store,
            self.pipeline,
            self.wakeups,
            options,
            metrics=self.metrics,
            chance=random.SystemRandom().random,
            monotonic=time.monotonic,
        )

    @asynccontextmanager
    async def open(self, *, works: bool) -> AsyncIterator["Container"]:
        """Own the database, see to its schema, take up what a dead predecessor left, and work until the block ends.

        Raises AlreadyOwned, SchemaMismatch, MigrationFailed. With `works` the worker runs inside.
        """
        async with AsyncExitStack() as stack:
            if self.factory.path is not None:
                stack.enter_context(own(self.factory.path))
            await stack.enter_async_context(self.store.open(self._prepare_schema))
            await self.readiness.probe()  # one full commit, or nothing is served (fact 14)
            await self._take_back_leases()
            sealer = Sealer(self.store)
            stack.push_async_callback(sealer.seal_last)
            stack.push_async_callback(self.denials.write_sums)
            if self.provider is not None:
                stack.push_async_callback(self.provider.close)
            for endless in (
                self.readiness.probe_now_and_then(),
                self.denials.write_sums_now_and_then(),
                prune_nonces_now_and_then(self.store),
                sealer.seal_now_and_then(),
            ):
                self._start(stack, endless)
            if works:
                self._start_worker(stack)
            stack.callback(self.stop)
            yield self

    @asynccontextmanager
    async def open_beside(self) -> AsyncIterator["Container"]:
        """Open the database beside the process that owns it, for administration; the schema must be this version's."""
        async with self.store.open(self._prepare_schema, owns=False):
            yield self

    def drain(self) -> None:
        """Begin to stop: readiness goes down, and the worker begins no more attempts."""
        if self.readiness.is_draining:
            return
        event(_log, logging.INFO, "stopping")
        self.readiness.is_draining = True
        if self._worker is not None:
            self._worker.stop()

    def stop(self) -> None:
        """Stop: nobody waits for anything any longer."""
        self.drain()
        self.wakeups.stop()

    def _sample(self, stages: Mapping[str, StageSample] | None) -> Sample:
        path = self.factory.path
        return Sample(
            is_ready=self.readiness.look().is_ready,
            stages=stages,
            slots={} if self._worker is None else self._worker.slots.counts(),
            units_waiting=self.store.waiting,
            file_bytes={} if path is None else {"database": _size(path), "wal": _size(Path(f"{path}-wal"))},
            disk_free_bytes=None if path is None else _free(path.parent),
        )

    async def _prepare_schema(self, target: SchemaTarget) -> None:
        if not self.settings.migrates:
            await self.migrations().verify(target)
            return
        for name in await self.migrations().apply(target):
            event(_log, logging.INFO, "migration_applied", name=name)

    async def _take_back_leases(self) -> None:
        policies = {stage.name: stage.retry for stage in self.pipeline.stages}
        crashes = Crashes(policies, random.SystemRandom().random)
        taken = None
        while taken is None or len(taken) == TAKE_BACK_LIMIT:
            taken = await self.store.write(lambda work: take_back_all(work, crashes))
            for back in taken:
                event(_log, logging.WARNING, "lease_taken_back", task_id=back.task_id, stage=back.stage,
                      crashes=back.crashes, recorded=back.recorded)  # fmt: skip
                self.metrics.lease_taken_back()
                if back.recorded is Recorded.DEAD_LETTER:
                    self.metrics.dead_letter(back.stage, is_known=back.stage in policies)

    def _start_worker(self, stack: AsyncExitStack) -> None:
        worker = self._worker = self.worker()
        self.readiness.worker_seen_at = lambda: worker.seen_at
        running = asyncio.create_task(worker.run(), name="worker")
        running.add_done_callback(self._worker_ended)

        async def stop() -> None:
            worker.stop()
            await asyncio.gather(running, return_exceptions=True)

        stack.push_async_callback(stop)

    def _worker_ended(self, running: asyncio.Task[None]) -> None:
        if running.cancelled() or (self.readiness.is_draining and running.exception() is None):
            return
        event(_log, logging.CRITICAL, "worker_failed", exc_info=running.exception())
        self.has_failed = True
        self.on_failure()

    def _start(self, stack: AsyncExitStack, endless: Awaitable[None]) -> None:
        task = asyncio.ensure_future(endless)

        async def stop() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        stack.push_async_callback(stop)

    def _fail(self, failure: StorageFailed) -> None:
        if self.has_failed:
            return
        event(_log, logging.CRITICAL, "storage_failed", exc_info=failure)
        self.has_failed = True
        self.on_failure()

    def _retention(self) -> Retention:
        return Retention(
            task_seconds=self.settings.task_retention_days * 86_400 or None,
            dead_letter_seconds=self.settings.dead_letter_retention_days * 86_400 or None,
            key_seconds=self.settings.key_retention_hours * 3_600 or None,
        )

    def _identity_provider(self) -> IdentityProvider | None:
        issuer, audience, jwks_url = self.settings.oidc_issuer, self.settings.oidc_audience, self.settings.oidc_jwks_url
        if issuer is None or audience is None:
            return None
        return IdentityProvider(
            issuer=issuer, audience=audience, jwks_url=jwks_url, clock=self.clock, monotonic=time.monotonic
        )

    def _quotas(self) -> Quotas:
        return Quotas(
            client=_limiter("client", self.settings.rate_limit_client),
            actor=_limiter("actor", self.settings.rate_limit_actor),
            asking=None if self.settings.rate_limit_client is None else _limiter("asking", ASKING_LIMIT),
        )

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        async with self.open(works=self.settings.worker_embedded):
            yield


@cache
def _queries(engine: str) -> Queries:
    """Return the queries for an engine; a process reads them once."""
    return load_queries(SQL / "queries", engine=engine)


def create_app(settings: Settings) -> Starlette:
    """Make the ASGI application; its lifespan opens the database and runs the embedded worker."""
    return Container(settings).application(with_lifespan=True)


def load_pipeline(place: str) -> Pipeline:
    """Import a pipeline from `module:attribute`; raises BadSettings with a sentence that says what is wrong."""
    module, _, attribute = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        told = f"PIPELINE {place!r} cannot be imported: {type(error).__name__}: {error}"
        raise BadSettings([f"{told}. Looked in the working directory {Path.cwd()} and on PYTHONPATH."]) from error
    if not isinstance(found, Pipeline):
        raise BadSettings([f"PIPELINE {place!r} is a {type(found).__name__}, not an app.pipelines.Pipeline."])
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _limiter(name: str, limit: RateLimit | None) -> RateLimiter | None:
    if limit is None:
        return None
    return RateLimiter(name, count=limit.count, seconds=limit.seconds, monotonic=time.monotonic)
