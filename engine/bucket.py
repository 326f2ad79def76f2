"""The store in a bucket of Google Cloud Storage, `gs://bucket/prefix`: a key is an object, its version a generation.

Compare-and-set is a precondition on the generation, which the bucket itself checks, so no lock is needed, and a writer
that was cut off from the network can't overwrite what others wrote meanwhile. An object holds all of its bytes or none,
and its checksum goes with it both ways.

A write whose answer is lost on the way is tried again, and is then refused by what it has written itself. So each write
puts a mark of its own into the object's metadata, by which it knows its work, even where that was replaced meanwhile.
A caller who makes the same write again after an outage gets the same mark. Beside it stands which generation the write
replaced, by which a delete that is tried again knows whether what it was to delete was deleted or replaced.

Credentials are the application's default ones. STORAGE_EMULATOR_HOST names another server, which asks for none.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time
from typing import Any, TypeVar

import requests
from google.api_core.exceptions import (
    Forbidden,
    GoogleAPICallError,
    GoogleAPIError,
    NotFound,
    PreconditionFailed,
    RetryError,
    ServerError,
    TooManyRequests,
    Unauthorized,
)
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.cloud.storage import Blob, Bucket, Client
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY
from google_crc32c import extend

from engine.cache import Cache, cache_of_user
from engine.errors import NoBucket, RetainError, StoreUnavailable
from engine.paths import why_unreadable, why_unwritable
from engine.store import ABSENT, Conflict, check_key

TRIED_S = 20.0  # after which a call that fails is given up here; engine/patience.py goes on where waiting is right
TIMEOUT_S = (5.0, 15.0)  # of one request: to connect, and between two bytes of the answer
RETRY = DEFAULT_RETRY.with_timeout(TRIED_S).with_delay(initial=0.25, maximum=4.0, multiplier=2.0)  # with jitter
FETCHED_S = 120.0  # after which a download isn't gone on with where its connection broke
# Else a thread of the library's asks for the bucket's settings, which takes a right more, for traces that nobody makes.
NO_LOOKS = "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"
CHUNK = 8 << 20  # of an upload: what a connection that breaks costs
PIECE = 1 << 20
MARK, AFTER = "retain-write", "retain-after"
DELETED = "deleted"  # in place of the bytes of a write
LOCAL = ".local"  # the folder, in a scratch folder, of files that were brought from the bucket
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
SHA256 = re.compile(r"[0-9a-f]{64}")
PASSING = (408, 410)  # a time-out, and an upload that is no longer known: it begins again
CLOCK_S = 300.0  # by which a clock may be off: Google takes a token from within so many seconds
ENDPOINT = "https://storage.googleapis.com"
# What a store does, and the role that has all of it; the look at the bucket itself takes another.
NEEDED = ("storage.objects.create", "storage.objects.delete", "storage.objects.get", "storage.objects.list")
ROLE = "roles/storage.objectUser"
READER = "roles/storage.objectViewer"
ROLES = {"storage.buckets.get": "roles/storage.legacyBucketReader"}

Result = TypeVar("Result")


@dataclass(frozen=True)
class Object:
    """What one generation of an object holds. `crc32c`: its checksum, in base64 as Google states it; `zipped`: by its
    metadata its bytes are those of a gzip file, whatever it is called."""

    key: str
    generation: int
    size: int
    crc32c: str
    zipped: bool


class BucketStore:
    """Raises StoreUnavailable while the bucket can't be reached, RetainError for what a person has to mend."""

    def __init__(self, url: str, cache: Cache | None = None, *, reads_only: bool = False) -> None:
        """`reads_only`: nobody writes there, so less has to be granted. Raises RetainError for what is no address of a
        bucket. Asks nobody yet."""
        name, _, prefix = url.removeprefix("gs://").strip("/").partition("/")
        try:
            if not url.startswith("gs://") or not NAME.fullmatch(name):
                raise ValueError
            if prefix:
                check_key(prefix)
        except ValueError:
            raise RetainError(
                f"{url}: is no address of a bucket; write it as gs://bucket or gs://bucket/prefix"
            ) from None
        self.bucket = name
        self.url = f"gs://{name}/{prefix}" if prefix else f"gs://{name}"
        self._prefix = f"{prefix}/" if prefix else ""
        self._role = READER if reads_only else ROLE
        self._cache = cache or cache_of_user()
        self._client: tuple[int, Client] | None = None  # of which process
        self._making = threading.Lock()
        # Writes and deletes that may have been made though no answer came, each with its mark: few, since outages are
        # rare.
        self._unanswered: dict[tuple[str, int | None, str], str] = {}

    def read(self, key: str) -> tuple[bytes, str] | None:
        blob = self._blob(key)
        try:
            data: bytes = self._call(
                "storage.objects.get", lambda: blob.download_as_bytes(timeout=TIMEOUT_S, retry=None)
            )
        except NotFound:
            return None
        return data, str(blob.generation)

    def write(
        self, key: str, data: bytes, expect: str | None = None, *, last_look: Callable[[], None] | None = None
    ) -> str:
        blob, generation = self._blob(key), _generation(key, expect)
        this_write = key, generation, hashlib.sha256(data).hexdigest()
        earlier = self._unanswered.pop(this_write, None)
        mark, tries = earlier or uuid.uuid4().hex, 1 if earlier else 0
        blob.metadata = {MARK: mark} | ({} if generation is None else {AFTER: str(generation)})

        def write() -> None:
            nonlocal tries
            if last_look is not None:
                last_look()
            tries += 1
            blob.upload_from_string(
                data,
                content_type="application/octet-stream",
                if_generation_match=generation,
                checksum="crc32c",
                timeout=TIMEOUT_S,
                retry=None,
            )

        try:
            try:
                self._call("storage.objects.create", write)
            except PreconditionFailed:
                made = self._written(key, mark) if tries > 1 else None
                if made is None:
                    raise Conflict(key) from None
                return made
        except StoreUnavailable:
            self._unanswered[this_write] = mark
            raise
        return str(blob.generation)

    def _written(self, key: str, mark: str) -> str | None:
        """The generation that has the mark, perhaps replaced by now: the bucket keeps older ones."""
        found = (each for each in self._generations(key) if (each.metadata or {}).get(MARK) == mark)
        return next((str(each.generation) for each in found), None)

    def _generations(self, key: str) -> Sequence[Blob]:
        """All that the bucket keeps of an object."""
        name = f"{self._prefix}{key}"

        def listed() -> Sequence[Blob]:
            found = self._connected().list_blobs(
                self.bucket, prefix=name, versions=True, timeout=TIMEOUT_S, retry=RETRY
            )
            return [each for each in found if each.name == name]

        return self._call("storage.objects.list", listed)

    def delete(self, key: str, expect: str | None = None) -> None:
        blob, generation = self._blob(key), _generation(key, expect)
        if generation == 0:
            if self._look(key) is not None:
                raise Conflict(key)
            return
        this_delete = key, generation, DELETED
        tries = 0 if self._unanswered.pop(this_delete, None) is None else 1

        def delete() -> None:
            nonlocal tries
            tries += 1
            try:
                blob.delete(if_generation_match=generation, timeout=TIMEOUT_S, retry=None)
            except NotFound as error:
                self._check_bucket(error)
                if generation is not None and tries == 1:
                    raise Conflict(key) from None

        try:
            try:
                self._call("storage.objects.delete", delete)
            except PreconditionFailed:
                if tries == 1 or self._was_replaced(key, generation):
                    raise Conflict(key) from None
        except StoreUnavailable:
            self._unanswered[this_delete] = DELETED
            raise

    def _was_replaced(self, key: str, generation: int | None) -> bool:
        """Whether a write took the place of this generation: otherwise it was deleted before what is there was made."""
        return any((each.metadata or {}).get(AFTER) == str(generation) for each in self._generations(key))

    def list(self, prefix: str) -> Iterator[str]:
        yield from sorted(self.versions(prefix))

    def versions(self, prefix: str) -> dict[str, str]:
        check_key(prefix)
        return {self._key(blob): str(blob.generation) for blob in self._listed(f"{prefix}/", "name,generation")}

    def objects(self) -> dict[str, Object]:
        """Everything below the address, by its key, as it is now."""
        return {
            (key := self._key(blob)): Object(
                key, blob.generation, blob.size, blob.crc32c, blob.content_encoding == "gzip"
            )
            for blob in self._listed("", "name,generation,size,crc32c,contentEncoding")
        }

    def fetch(self, wanted: Object, into: Path) -> None:
        """Writes the bytes of that generation into a file. Raises Conflict if the bucket doesn't have it any more, and
        OSError if the file can't be written."""
        blob = self._connected().bucket(self.bucket).blob(f"{self._prefix}{wanted.key}", generation=wanted.generation)
        retry = RETRY.with_timeout(FETCHED_S)

        def fetch() -> None:
            # The library checks no download that it went on with where it broke, so all are checked here.
            blob.download_to_filename(str(into), raw_download=True, checksum=None, timeout=TIMEOUT_S, retry=retry)
            if _crc32c(into) != wanted.crc32c:
                raise ConnectionError(f"{wanted.key} arrived damaged")

        try:
            self._call("storage.objects.get", fetch)
        except NotFound:
            raise Conflict(wanted.key) from None

    def _listed(self, prefix: str, fields: str) -> Sequence[Blob]:
        """The objects below the store's prefix and this one, with those of their fields."""

        def listed() -> Sequence[Blob]:
            found = self._connected().list_blobs(
                self.bucket,
                prefix=f"{self._prefix}{prefix}",
                fields=f"items({fields}),nextPageToken",
                timeout=TIMEOUT_S,
                retry=RETRY,  # of each page
            )
            return tuple(found)

        return self._call("storage.objects.list", listed)

    def _key(self, blob: Blob) -> str:
        name: str = blob.name
        return name.removeprefix(self._prefix)

    def put_file(self, key: str, path: Path) -> None:
        blob = self._blob(key)
        try:
            with path.open("rb") as file:
                size, md5 = os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "md5").digest()
        except OSError as error:
            raise StoreUnavailable(f"{path}: {why_unreadable(error)}") from None
        stored = self._look(key)
        if stored is not None and stored.size == size and stored.md5_hash == base64.b64encode(md5).decode():
            return
        blob.chunk_size = CHUNK  # else an upload that breaks begins again with its first byte

        def upload() -> None:
            blob.upload_from_filename(
                str(path), content_type="application/octet-stream", checksum="md5", timeout=TIMEOUT_S, retry=RETRY
            )

        self._call("storage.objects.create", upload)

    def local(self, key: str, scratch: Path) -> Path:
        """A file in `scratch`. One that its key names by the sha256 is kept in the cache of this machine as well."""
        blob = self._blob(key)
        place = scratch / LOCAL / hashlib.sha256(key.encode()).hexdigest()

        def fetch(into: Path) -> None:
            self._call(
                "storage.objects.get",
                lambda: blob.download_to_filename(str(into), checksum="crc32c", timeout=TIMEOUT_S, retry=RETRY),
            )

        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            name = key.rpartition("/")[2]
            if SHA256.fullmatch(name):
                self._cache.bring(name, place, fetch)
            else:
                fetch(place)
                place.chmod(0o444)
        except NotFound:
            place.unlink(missing_ok=True)  # so the caller finds that there is none
        except OSError as error:
            other = ". RETAIN_CACHE may name another folder" if place.is_relative_to(self._cache.folder) else ""
            raise StoreUnavailable(f"{error.filename or place}: {why_unwritable(error)}{other}") from None
        return place

    @property
    def here(self) -> Path:
        return self._cache.folder / "stores" / self.bucket / self._prefix

    def check(self) -> None:
        self.check_clock()
        try:
            bucket: Bucket = self._call(
                "storage.buckets.get",
                lambda: self._connected().get_bucket(self.bucket, timeout=TIMEOUT_S, retry=None),
            )
            granted = self._call(
                "storage.buckets.get",
                lambda: bucket.test_iam_permissions(list(NEEDED), timeout=TIMEOUT_S, retry=None),
            )
        except NoBucket:
            raise RetainError(f"{self.url}: there is no bucket {self.bucket}; make it, or mend RETAIN_STORE") from None
        if missing := sorted(set(NEEDED) - set(granted)):
            raise RetainError(f"{self.url}: this account lacks {', '.join(missing)}; grant it {ROLE} on the bucket")
        if not bucket.versioning_enabled:
            raise RetainError(
                f"{self.url}: the bucket keeps no older versions, so whatever is deleted by mistake is gone; "
                f"gcloud storage buckets update gs://{self.bucket} --versioning"
            )

    def check_clock(self) -> None:
        """Raises RetainError if this machine's clock is so wrong that Google would refuse what it signs."""
        endpoint = _endpoint()
        try:
            with urllib.request.urlopen(
                urllib.request.Request(endpoint, method="HEAD"), timeout=TIMEOUT_S[0]
            ) as answer:
                date = answer.headers.get("Date")
        except urllib.error.HTTPError as error:
            date = error.headers.get("Date")
        except OSError as error:
            raise StoreUnavailable(f"{self.url}: {endpoint} can't be reached ({error})") from None
        if date is None:
            return
        off_s = time() - parsedate_to_datetime(date).timestamp()
        if abs(off_s) > CLOCK_S:
            way = "ahead" if off_s > 0 else "behind"
            raise RetainError(
                f"{self.url}: this machine's clock is {abs(off_s) / 60:.0f} minutes {way}, and Google refuses what it "
                "signs; set it (timedatectl set-ntp true)"
            )

    def _blob(self, key: str) -> Blob:
        check_key(key)
        return self._connected().bucket(self.bucket).blob(f"{self._prefix}{key}")

    def _look(self, key: str) -> Blob | None:
        """The object's metadata, or None."""
        blob = self._blob(key)
        try:
            self._call("storage.objects.get", lambda: blob.reload(timeout=TIMEOUT_S, retry=None))
        except NotFound:
            return None
        return blob

    def _connected(self) -> Client:
        """The client of this process: a connection isn't shared with one that was forked."""
        with self._making:
            if self._client is None or self._client[0] != os.getpid():
                _endpoint()
                os.environ[NO_LOOKS] = "true"
                try:
                    self._client = os.getpid(), Client(project=None)
                except (GoogleAuthError, OSError) as error:
                    raise self._said(error, NEEDED[0]) from None
            return self._client[1]

    def _call(self, permission: str, function: Callable[[], Result]) -> Result:
        """What the function returns, tried again where that may help. Raises PreconditionFailed, and NotFound of an
        object that is asked for; everything else as an error of the house."""
        try:
            answer: Result = RETRY(function)()
            return answer
        except NotFound as error:
            self._check_bucket(error)
            if permission == "storage.objects.get":
                raise
            raise self._said(error, permission) from None
        except PreconditionFailed:
            raise
        except (GoogleAPIError, GoogleAuthError, DataCorruption, requests.RequestException, ConnectionError) as error:
            raise self._said(error, permission) from None

    def _check_bucket(self, error: NotFound) -> None:
        if "bucket does not exist" in str(error):
            raise NoBucket(f"{self.url}: the bucket is gone, or never was") from None

    def _said(self, error: Exception, permission: str) -> RetainError:
        if isinstance(error, RetryError) and isinstance(error.cause, Exception):
            error = error.cause
        if isinstance(error, Forbidden):
            role = ROLES.get(permission, self._role)
            return RetainError(f"{self.url}: this account lacks {permission} ({_first_line(error)}); grant it {role}")
        if isinstance(error, Unauthorized | DefaultCredentialsError) or (
            isinstance(error, GoogleAuthError) and not isinstance(error, TransportError) and not error.retryable
        ):
            return RetainError(
                f"{self.url}: no credentials of Google Cloud that work ({_first_line(error)}); `gcloud auth "
                "application-default login`, or let GOOGLE_APPLICATION_CREDENTIALS name a key file"
            )
        passing = isinstance(error, ServerError | TooManyRequests) or getattr(error, "code", None) in PASSING
        lasting = isinstance(error, GoogleAPICallError) and not passing
        kind = RetainError if lasting else StoreUnavailable
        return kind(f"{self.url}: can't be used now ({_first_line(error)})")


def _endpoint() -> str:
    """The server's address. Raises RetainError for what is none."""
    given = os.environ.get("STORAGE_EMULATOR_HOST")
    if given and not re.match(r"https?://[^/\s]", given):
        raise RetainError(f"STORAGE_EMULATOR_HOST={given}: wants an address such as http://localhost:9023; or unset it")
    return given or ENDPOINT


def _crc32c(path: Path) -> str:
    """As Google states it."""
    checksum = 0
    with path.open("rb") as content:
        while piece := content.read(PIECE):
            checksum = extend(checksum, piece)
    return base64.b64encode(checksum.to_bytes(4, "big")).decode()


def _first_line(error: Exception) -> str:
    message: Any = getattr(error, "message", None) or error
    return (str(message).strip().splitlines() or [type(error).__name__])[0][:300]


def _generation(key: str, expect: str | None) -> int | None:
    """The precondition: 0 is that of an object that isn't there. Raises Conflict for what no bucket gave out."""
    if expect is None:
        return None
    if expect == ABSENT:
        return 0
    if not expect.isdecimal() or not int(expect):
        raise Conflict(key)
    return int(expect)
