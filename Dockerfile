# Any Debian-based image with Python 3.11 or newer will do as the base:
#   docker build --build-arg BASE_IMAGE=python:3.13-slim -t jobsworth .
# Without the embedded PostgreSQL, which only `jobsworth demo` and a worker without a database URL
# need, the image is 68 MB smaller: --build-arg EXTRAS=anthropic
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/build && python3 -m venv /opt/jobsworth
WORKDIR /src
COPY requirements.lock ./
RUN /opt/build/bin/pip install --constraint requirements.lock hatchling
COPY pyproject.toml README.md LICENSE ./
COPY jobsworth/ jobsworth/
COPY worker/ worker/
COPY db/ db/
COPY migrations/ migrations/
# The lock is only a constraint: its packages for development are not installed.
ARG EXTRAS=anthropic,embedded,otel,semantic
RUN /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /dist . \
    && /opt/jobsworth/bin/pip install --constraint requirements.lock \
        "jobsworth[${EXTRAS}] @ file://$(echo /dist/*.whl)"

FROM ${BASE_IMAGE}
# Deployments export commits with git.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 8470 --create-home --home-dir /var/lib/jobsworth jobsworth
COPY --from=build /opt/jobsworth /opt/jobsworth
ENV PATH=/opt/jobsworth/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    JOBSWORTH_DATA_DIR=/var/lib/jobsworth \
    JOBSWORTH_HTTP_HOST=0.0.0.0
USER jobsworth
WORKDIR /var/lib/jobsworth
VOLUME /var/lib/jobsworth
EXPOSE 8470
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/opt/jobsworth/bin/python", "-c", "import os, urllib.request as r; p = os.environ.get('JOBSWORTH_HTTP_PORT') or '8470'; p == 'off' or r.urlopen(f'http://127.0.0.1:{p}/healthz', timeout=4)"]
# SIGTERM drains the running jobs: allow more than JOBSWORTH_DRAIN_SECONDS (docker stop -t 45).
STOPSIGNAL SIGTERM
ENTRYPOINT ["jobsworth"]
CMD ["worker"]
