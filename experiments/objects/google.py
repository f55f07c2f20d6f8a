"""Google Cloud Storage, through Google's own client: generations are versions, and its retries are those of the field.

With STORAGE_EMULATOR_HOST set, the client speaks to an emulator there, without credentials.
"""

from collections.abc import Iterator
import contextlib
import functools
import os
from typing import TYPE_CHECKING, Any

from experiments.objects import bucket
from experiments.objects.bucket import Conflict, Entry, Found, Listing, Unavailable
from models.errors import InputError

if TYPE_CHECKING:
    from google.cloud import storage

REQUIREMENT = "google-cloud-storage==3.17.1"
FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 20.0
_SHOWN = 200  # characters of an error


@functools.cache
def _client() -> "storage.Client":
    """Open the client of this process. Raises InputError where it is not installed, or nobody is logged in."""
    try:
        from google.auth import exceptions
        from google.cloud import storage
    except ImportError as error:
        raise InputError(f"gs:// needs a package that is not installed ({error}): pip install {REQUIREMENT}") from error
    # No request that is made here names a project; without one the client would look for it, and fail where there is none.
    project = os.environ.get("GOOGLE_CLOUD_PROJECT", "none")
    try:
        return storage.Client(project)
    except exceptions.DefaultCredentialsError as error:
        raise InputError(
            "gs:// needs credentials, and there are none: gcloud auth application-default login, a service account's "
            "GOOGLE_APPLICATION_CREDENTIALS, or a machine of Google's"
        ) from error


class GoogleBucket:
    """A bucket of Google Cloud Storage."""

    def __init__(self, name: str):
        from google.cloud.storage.retry import DEFAULT_RETRY

        self.name = name
        self._bucket = _client().bucket(name)
        patient = DEFAULT_RETRY.with_timeout(bucket.RETRY_SECONDS)
        self._retry = patient.with_delay(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, 2.0)

    def read(self, name: str) -> Found:
        """Return an object. Raises FileNotFoundError."""
        blob = self._bucket.blob(name)
        with self._translated(name):
            data = blob.download_as_bytes(retry=self._retry)
        return Found(data, str(blob.generation))

    def stat(self, name: str) -> Entry:
        """Return what a listing would say of an object. Raises FileNotFoundError."""
        blob = self._bucket.blob(name)
        with self._translated(name):
            blob.reload(retry=self._retry)
        return _entry(blob)

    def write(self, name: str, data: bytes, expected: str | None = None) -> str:
        """Write an object and return its generation. Raises Conflict where it is not in the `expected` one."""
        generation = None
        if expected is not None:
            generation = int(expected or 0)  # 0: there is none
        blob = self._bucket.blob(name)
        try:
            with self._translated(name):
                blob.upload_from_string(data, if_generation_match=generation, retry=self._retry)
        except FileNotFoundError as error:  # an object that is written needs no other
            raise self._no_bucket() from error
        except Conflict:
            # The answer to a first attempt may have been lost, and this is the answer to the second.
            found = self._read_or_none(name)
            if found is None or found.data != data:
                raise
            return found.version
        return str(blob.generation)

    def _read_or_none(self, name: str) -> Found | None:
        with contextlib.suppress(FileNotFoundError):
            return self.read(name)
        return None

    def list(self, prefix: str, nested: bool = False, limit: int | None = None) -> Listing:
        """List objects by the beginning of their names."""
        delimiter = None if nested else "/"
        try:
            with self._translated(prefix):
                found = self._bucket.list_blobs(
                    prefix=prefix, delimiter=delimiter, max_results=limit, retry=self._retry
                )
                objects = [_entry(blob) for blob in found]
        except FileNotFoundError as error:
            raise self._no_bucket() from error
        return Listing(objects, sorted(found.prefixes))

    def delete(self, name: str) -> None:
        """Delete an object. Raises FileNotFoundError."""
        with self._translated(name):
            self._bucket.blob(name).delete(retry=self._retry)

    def copy(self, name: str, target: str) -> None:
        """Copy an object within the bucket. Raises FileNotFoundError."""
        with self._translated(name):
            source = self._bucket.blob(name)
            # Pyright takes the type of the default for that of the parameter.
            self._bucket.blob(target).rewrite(source, retry=self._retry)  # pyright: ignore[reportArgumentType]

    def _address(self, name: str) -> str:
        return f"gs://{self.name}/{name}"

    def _no_bucket(self) -> InputError:
        return InputError(f"gs://{self.name}: there is no such bucket; expected one that exists")

    @contextlib.contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        """Raise what Python raises for files in the place of the client's errors."""
        import google.api_core.exceptions as api
        import google.auth.exceptions as auth
        import requests

        address = self._address(name)
        try:
            yield
        except api.NotFound as error:
            raise bucket.absent(address) from error
        except api.PreconditionFailed as error:
            raise Conflict(address) from error
        except (api.Forbidden, api.Unauthorized, auth.RefreshError) as error:
            raise bucket.denied(address) from error
        except api.BadRequest as error:
            raise InputError(f"{address} is refused: {_one_line(error)}") from error
        except (api.GoogleAPIError, auth.GoogleAuthError, requests.RequestException, OSError) as error:
            raise Unavailable(f"{address} cannot be used now ({_one_line(error)})") from error


def _entry(blob: Any) -> Entry:
    """Return what a listing says of an object."""
    written_at = blob.updated.timestamp() if blob.updated else 0.0
    return Entry(blob.name, blob.size or 0, str(blob.generation), written_at)


def _one_line(error: Exception) -> str:
    """Return the kind and the text of an error."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_SHOWN]}"
