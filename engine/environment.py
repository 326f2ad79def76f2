"""The environment of a stage's process: what is listed here and nothing else.

So no variable of whoever starts a run reaches a result: no PYTHONOPTIMIZE, no PYTHONPATH, no GIT_DIR of a hook, no
OMP_PROC_BIND. docs/SETTINGS.md explains each name, and a test compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

# Taken from the caller where it is set; a name that ends in * is the beginning of several. There are no proxies and no
# certificates, since no stage downloads: the run has fetched its files before.
TAKEN = (
    "PATH",
    "HOME",
    "LANG",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_*",
    "NVIDIA_*",
    "BNB_CUDA_VERSION",  # which of bitsandbytes' libraries is loaded, where it isn't the one of torch's CUDA
    "GOOGLE_APPLICATION_CREDENTIALS",
    "CLOUDSDK_CONFIG",
    "GCE_METADATA_HOST",  # by which a stage hears that its spot machine is taken away
    "STORAGE_EMULATOR_HOST",
    "RETAIN_*",
)
SET = {
    "PYTHONHASHSEED": "0",  # so that the order of a set, if it reaches an artifact, is always the same
    "PYTHONUTF8": "1",  # so that files and lines are in UTF-8 whatever the caller's language
    # glibc gives what tensors leave behind back to the system at once and asks for it again: of a training step of
    # tiny-opt an eighth was page faults. An attempt keeps up to 512 MB of it, in large pages where there are some. A
    # single block of 32 MB and more is still given back.
    "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
# Never in a job variable, a log, a manifest or an artifact. A test searches all of them for their values. (The path of
# a key file, though not what is in it, is a job variable where containers are to mount it: flows/mounts.py.)
SECRETS = (
    "ASSIGNMENT_KEY",
    "DATABASE_URL",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "POSTGRES_PASSWORD",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_KEY",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PSEUDONYM_KEY",
    "RETAIN_ADMIN_TOKEN",
    "RETAIN_API_KEYS",
    "RETAIN_CONTROLLER_TOKEN",
    "RETAIN_PAGE_URL",
)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SET_FOR_LIBRARIES = {
    # A thread that spins while it waits keeps its partner off a core that others use, too: iterations of 0.2 s were
    # seen to take 5 s. numpy's own products are small, and with a second thread they waited 12 ms instead of 0.1.
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_NUM_THREADS": "1",
    # Nothing here is compiled by torch, but bitsandbytes asks for it when it is imported, and a fifth of what importing
    # a trainer took was torch's compiler.
    "TORCHDYNAMO_DISABLE": "1",
}


def taken(caller: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """The variables of `caller` that have one of the names; one that ends in * is the beginning of several, but of no
    secret."""
    patterns = tuple(names)
    return {
        name: value
        for name, value in caller.items()
        if name in patterns or (name not in SECRETS and any(fnmatchcase(name, each) for each in patterns))
    }


def of_stage(caller: Mapping[str, str]) -> dict[str, str]:
    """All of the environment that a stage's process is started with, by a run that was started with `caller`."""
    return taken(caller, TAKEN) | SET


def of_libraries(threads: int) -> dict[str, str]:
    """What numpy, XGBoost and torch read once, when they are imported."""
    return dict.fromkeys(THREADS, str(threads)) | SET_FOR_LIBRARIES
