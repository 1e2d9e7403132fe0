# Two targets: `production` (the default, last) and `dev`, which adds the example pipeline.
#   docker build -t cabinet .
#   docker build -t cabinet-dev --target dev .
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /build
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /opt/cabinet \
    && /opt/cabinet/bin/pip install --no-cache-dir --require-hashes -r requirements.lock -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY sql sql
RUN /opt/cabinet/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/cabinet/bin/pip uninstall --yes hatchling

FROM build AS build-dev
COPY requirements-examples.lock ./
RUN /opt/cabinet/bin/pip install --no-cache-dir --require-hashes -r requirements-examples.lock

FROM ${BASE} AS base
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/cabinet cabinet \
    && chmod 0700 /var/lib/cabinet
ENV PATH=/opt/cabinet/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DB_PATH=/var/lib/cabinet/cabinet.db \
    ARTIFACTS_DIR=/var/lib/cabinet/artifacts \
    HOST=0.0.0.0 \
    PORT=8000
WORKDIR /srv/cabinet
VOLUME /var/lib/cabinet
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ['PORT']}/ready\", timeout=2)"]
USER cabinet
CMD ["cabinet", "serve"]

FROM base AS dev
COPY --from=build-dev /opt/cabinet /opt/cabinet
COPY examples examples
ENV APP_ENV=dev PIPELINE=examples.listings.pipeline:pipeline

FROM base AS production
COPY --from=build /opt/cabinet /opt/cabinet
ENV APP_ENV=prod
