# Image `tabular`: stages without a language model, and the flow that carries out a run.
#
# `make images` builds it (images/build.py) from a context that holds lock.txt, the libraries of this image, and code/,
# the folders of this repository that it needs. docs/CONTAINERS.md says more.

FROM python:3.11-slim-bookworm AS libraries
# Where PyTorch's builds for CPUs are published; asked if no index that pip knows has the one that is locked.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv --without-pip /opt/venv
COPY lock.txt /opt/lock.txt
# Without headers, test programs and tests, a third of a gigabyte that no run reads.
RUN install="pip --python /opt/venv install -q --no-cache-dir --no-compile --no-deps --require-hashes -r /opt/lock.txt" \
 && { $install || $install --extra-index-url "$TORCH_INDEX"; } \
 && pip --python /opt/venv check \
 && cd /opt/venv/lib/python3.11/site-packages \
 && rm -rf torch/include torch/test torch/bin/*Test torch/bin/test_* torch/bin/protoc* pyarrow/include \
 && find . -type d -name tests -prune -exec rm -rf {} +
# Nobody can write beside the code when it runs, so what is compiled here is all that ever will be. Some libraries have
# files in the syntax of later Pythons, which nothing imports.
RUN python -m compileall -qq -j 0 --invalidation-mode unchecked-hash /opt/venv/lib || true; \
    echo /opt/retain > /opt/venv/lib/python3.11/site-packages/retain.pth

FROM python:3.11-slim-bookworm
# tini: a first process that hands signals on and takes in orphans. libgomp1: threads of bitsandbytes and XGBoost.
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends tini libgomp1 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt \
 && groupadd --gid 10001 retain \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin retain
COPY --from=libraries /opt/venv /opt/venv
ENV HOME=/tmp
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PREFECT_HOME=$HOME/prefect \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RETAIN_STORE=/store \
    RETAIN_REBUILD="make images && make deploy"
COPY code /opt/retain
WORKDIR /opt/retain
RUN python -m compileall -q --invalidation-mode unchecked-hash /opt/retain
# Any other user and group will do as well, such as those of whoever owns the store.
USER 10001:10001
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["python", "-m", "prefect.engine"]
# Last, since every commit has another one.
ARG RETAIN_COMMIT=unknown
ENV RETAIN_COMMIT=$RETAIN_COMMIT
