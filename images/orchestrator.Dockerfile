# Image `orchestrator`: Prefect's server and worker, and the witness of containers. infra/ says which of them it runs.
#
# `make images` builds it (images/build.py) from a context of its own (images/context.py): install.sh, the image's lock
# file in parts, of which the first are those of other images as well, and code/, what it needs of this repository.

FROM python:3.11-slim-bookworm AS libraries
RUN python -m venv --without-pip /opt/venv
COPY install.sh /opt/install.sh
COPY flows.txt /opt/flows.txt
RUN sh /opt/install.sh /opt/flows.txt
COPY own.txt /opt/own.txt
RUN sh /opt/install.sh /opt/own.txt
RUN pip --python /opt/venv check \
 && echo /opt/retain > /opt/venv/lib/python3.11/site-packages/retain.pth

FROM python:3.11-slim-bookworm
# tini: a first process that hands signals on and takes in orphans.
# /cache: what is kept of a store in a bucket. A new volume that is mounted there belongs to everybody, as the folder does.
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt \
 && groupadd --gid 10001 retain \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin retain \
 && install --directory --mode=1777 /cache
COPY --from=libraries /opt/venv /opt/venv
ENV HOME=/tmp
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PREFECT_HOME=$HOME/prefect \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RETAIN_STORE=/store \
    RETAIN_CACHE=/cache \
    CLOUDSDK_CONFIG=/google
COPY code /opt/retain
WORKDIR /opt/retain
RUN python -m compileall -q --invalidation-mode unchecked-hash /opt/retain
# Any other user and group will do as well, such as those of whoever owns the store.
USER 10001:10001
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["prefect", "version"]
# Last, since every commit has another one.
ARG RETAIN_COMMIT=unknown
ENV RETAIN_COMMIT=$RETAIN_COMMIT
