# sh install.sh LOCK: installs into /opt/venv what the lock file names, compiled. The first step of every image's build.
set -eu

touch /opt/before
install="pip --python /opt/venv install -q --no-cache-dir --no-compile --no-deps --require-hashes -r $1"
if ! $install 2> /opt/errors; then
  cat /opt/errors >&2
  # Where PyTorch's builds for CPUs are published; asked if no index that pip knows has the one that is locked.
  grep -q 'No matching distribution found for torch' /opt/errors
  $install --extra-index-url https://download.pytorch.org/whl/cpu
fi

cd /opt/venv/lib/python3.11/site-packages
# Headers, test programs and tests: of PyTorch's images a third of a gigabyte that no run reads.
rm -rf torch/include torch/test torch/bin/*Test torch/bin/test_* torch/bin/protoc* pyarrow/include
# A tenth of a gigabyte of descriptions of Google's other services, which come with prefect-gcp.
rm -rf googleapiclient/discovery_cache/documents
find . -type d -name tests -prune -exec rm -rf {} +

# Nobody can write beside the code when it runs, so what is compiled here is all that ever will be. Some libraries have
# files in the syntax of later Pythons, which nothing imports.
find . -name '*.py' -newer /opt/before > /opt/new
python -m compileall -qq -j 0 --invalidation-mode unchecked-hash -i /opt/new || true
