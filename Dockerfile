# Two targets: `production` (the default, last) and `dev`, which adds the example pipeline.
#   docker build -t cabinet .
#   docker build -t cabinet-dev --target dev .
ARG BASE=python:3.13-slim

# pip and hatchling stay in /opt/build, so that nothing of them is left where the service runs.
FROM ${BASE} AS dependencies
WORKDIR /build
COPY requirements.lock requirements-build.lock ./
RUN python3 -m venv /opt/build \
    && python3 -m venv --without-pip /opt/cabinet \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements-build.lock \
    && /opt/build/bin/pip --python /opt/cabinet/bin/python install --no-cache-dir --require-hashes --only-binary :all: \
        -r requirements.lock

FROM dependencies AS build
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY sql sql
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/build/bin/pip --python /opt/cabinet/bin/python install --no-cache-dir --no-deps dist/*.whl

FROM dependencies AS build-dev
COPY requirements-examples.lock ./
RUN /opt/build/bin/pip --python /opt/cabinet/bin/python install --no-cache-dir --require-hashes --only-binary :all: \
        -r requirements-examples.lock
COPY --from=build /build/dist dist
RUN /opt/build/bin/pip --python /opt/cabinet/bin/python install --no-cache-dir --no-deps dist/*.whl

FROM ${BASE} AS base
# The user's id is a number of its own, so that a volume's owner and `runAsNonRoot` can name it.
RUN groupadd --gid 10001 cabinet \
    && useradd --uid 10001 --gid cabinet --no-create-home --home-dir /var/lib/cabinet --shell /usr/sbin/nologin cabinet \
    && install -d -o cabinet -g cabinet -m 0700 /var/lib/cabinet
ENV PATH=/opt/cabinet/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DB_PATH=/var/lib/cabinet/cabinet.db \
    ARTIFACTS_DIR=/var/lib/cabinet/artifacts \
    HOST=0.0.0.0 \
    PORT=8000 \
    METRICS_HOST=0.0.0.0 \
    METRICS_PORT=9464
WORKDIR /srv/cabinet
VOLUME /var/lib/cabinet
# 9464 is for whoever collects the metrics; do not publish it.
EXPOSE 8000 9464
# -I: no module that lies beside the pipeline is imported in the place of Python's own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-I", "-c", "import os, sys, http.client as http; host = os.environ['HOST']; asked = http.HTTPConnection({'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host), int(os.environ['PORT']), timeout=4); asked.request('GET', '/ready'); sys.exit(asked.getresponse().status != 200)"]
USER 10001:10001
CMD ["cabinet", "serve"]

FROM base AS dev
COPY --from=build-dev /opt/cabinet /opt/cabinet
COPY examples examples
ENV APP_ENV=dev \
    PIPELINE=examples.listings.pipeline:pipeline

FROM base AS production
COPY --from=build /opt/cabinet /opt/cabinet
ENV APP_ENV=prod
