"""Folders of an object store: gs:// by TensorFlow itself, others by fsspec.

TensorFlow reads and writes gs:// without another client, so a machine that
can train needs nothing more; s3:// takes s3fs. Whatever a client raises
becomes one of three: the object is missing, the store refuses, or it does not
answer.
"""

import abc
import contextlib
import pathlib
import traceback

from data_prep.runtime import atomic
from data_prep.runtime import startup
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped
from data_prep.runtime.errors import UsageError

_PIECE = 1 << 20
_LONGEST = 300  # characters of a client's own message


class Store(abc.ABC):
    """A folder of an object store; `open_store` makes one.

    Every method raises a DataError where the store refuses (credentials, a
    bucket that does not exist) and Stopped where it does not answer, after the
    client's own retries: the same command may then succeed later.

    Args:
        uri: Of the folder.
    """

    def __init__(self, uri: str):
        self.uri = uri.rstrip("/")

    @abc.abstractmethod
    def names(self) -> list[str]:
        """Returns the sorted names of all objects below the folder."""

    @abc.abstractmethod
    def read(self, name: str) -> bytes:
        """Returns an object's content; FileNotFoundError if there is none."""

    @abc.abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Writes an object, which appears whole or not at all."""

    @abc.abstractmethod
    def delete(self, name: str) -> None:
        """Deletes an object; FileNotFoundError if there is none."""

    def download(self, name: str, path: pathlib.Path) -> None:
        """Copies an object to a file, which appears whole or not at all.

        Raises:
            FileNotFoundError: If there is no such object.
        """
        with atomic.replacing(path) as incomplete:
            self._get(name, incomplete)

    @abc.abstractmethod
    def upload(self, path: pathlib.Path, name: str) -> None:
        """Copies a file to an object, which appears whole or not at all.

        Raises:
            FileNotFoundError: If there is no such file.
        """

    @abc.abstractmethod
    def _get(self, name: str, path: pathlib.Path) -> None:
        """Copies an object to a file."""

    def _refused(self, text: str, cure: str) -> DataError:
        return DataError(f"{self.uri} cannot be used: {_short(text)}. {cure}")

    def _silent(self, text: str) -> Stopped:
        return Stopped(
            f"{self.uri} does not answer: {_short(text)}. What was copied "
            "before is whole; run the same command again."
        )

    def _no_bucket(self) -> DataError:
        return self._refused(
            "there is no such bucket", "Make it, or correct the address."
        )


class TensorFlowStore(Store):
    """A gs:// folder, by TensorFlow's own file system.

    It retries by itself: GCS_RETRY_CONFIG_MAX_RETRIES and its other variables
    are TensorFlow's.

    Raises:
        UsageError: If this TensorFlow has no such file system.
    """

    def __init__(self, uri: str):
        super().__init__(uri)
        startup.import_tensorflow()
        import tensorflow as tf

        self._files = tf.io.gfile
        self._errors = tf.errors
        scheme = uri.partition("://")[0]
        if scheme not in self._files.get_registered_schemes():
            raise UsageError(
                f"{uri}: TensorFlow {tf.__version__} knows no {scheme}:// "
                "here. Its builds for Linux do."
            )

    def names(self) -> list[str]:
        found, folders = [], [""]
        while folders:
            folder = folders.pop()
            for name in self._listed(f"{self.uri}/{folder}".rstrip("/")):
                # This file system marks a folder by a slash.
                (folders if name.endswith("/") else found).append(folder + name)
        return sorted(found)

    def _listed(self, place: str) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return self._call(self._files.listdir, place)
        # That is said of a folder that cannot be looked at, too: this is not.
        with contextlib.suppress(FileNotFoundError):
            self._call(self._files.stat, place)
            return self._call(self._files.listdir, place)
        return []

    def read(self, name: str) -> bytes:
        def read_whole() -> bytes:
            with self._files.GFile(f"{self.uri}/{name}", "rb") as file:
                # Without a number it asks for the size, which it remembers
                # for seconds while another machine writes the object anew.
                return b"".join(iter(lambda: file.read(_PIECE), b""))

        return self._call(read_whole)

    def write(self, name: str, content: bytes) -> None:
        def write_whole() -> None:
            # Stored when it is closed, as far as it was written.
            with self._files.GFile(f"{self.uri}/{name}", "wb") as file:
                file.write(content)

        try:
            self._call(write_whole)
        except FileNotFoundError:
            raise self._no_bucket() from None

    def upload(self, path: pathlib.Path, name: str) -> None:
        # In one piece: an exception between two would close the file, and so
        # store the first as if it were all.
        self.write(name, path.read_bytes())

    def delete(self, name: str) -> None:
        self._call(self._files.remove, f"{self.uri}/{name}")

    def _get(self, name: str, path: pathlib.Path) -> None:
        place = f"{self.uri}/{name}"
        self._call(self._files.copy, place, str(path), True)

    def _call(self, function, *words):
        try:
            return function(*words)
        except self._errors.OpError as error:
            # A write that failed is tried once more when its file is freed:
            # now, and not over what is written next.
            traceback.clear_frames(error.__traceback__)
            raise self._own(error) from None

    def _own(self, error) -> Exception:
        """Returns TensorFlow's error as one of ours."""
        if isinstance(error, self._errors.NotFoundError):
            return FileNotFoundError(error.message)
        refused = (
            self._errors.PermissionDeniedError,
            self._errors.UnauthenticatedError,
        )
        if isinstance(error, refused):
            return self._refused(
                error.message,
                "Expected an account that may read, write and delete there: "
                "that of the machine, the key file that "
                "GOOGLE_APPLICATION_CREDENTIALS names, or yours after "
                "`gcloud auth application-default login`.",
            )
        silent = (
            self._errors.UnavailableError,
            self._errors.DeadlineExceededError,
            self._errors.AbortedError,
        )
        if isinstance(error, silent):
            return self._silent(error.message)
        return self._refused(
            f"{type(error).__name__}: {error.message}",
            "Check the address, and the room on this machine's disk and in "
            "/tmp, where TensorFlow keeps a copy of what it writes.",
        )


class FsspecStore(Store):
    """An s3:// folder, or what else fsspec has a client for.

    Raises:
        UsageError: If the client is not installed, or there is none.
    """

    def __init__(self, uri: str):
        super().__init__(uri)
        scheme = uri.partition("://")[0]
        try:
            import fsspec

            self._files, self._root = fsspec.core.url_to_fs(self.uri)
        except ImportError as error:
            raise UsageError(
                f"{uri} cannot be reached: {error}. s3:// takes "
                "`pip install 'shardtune[s3]'`, gs:// nothing."
            ) from None
        except ValueError:
            raise UsageError(
                f"{uri} cannot be reached: {scheme}:// is not known. Expected "
                "gs://, s3://, or another that fsspec has a client for."
            ) from None

    def names(self) -> list[str]:
        self._files.invalidate_cache()
        try:
            found = self._call(self._files.find, self._root)
        except FileNotFoundError:
            return []
        return sorted(name[len(self._root) + 1 :] for name in found)

    def read(self, name: str) -> bytes:
        return self._call(self._files.cat_file, f"{self._root}/{name}")

    def write(self, name: str, content: bytes) -> None:
        try:
            self._call(self._files.pipe_file, f"{self._root}/{name}", content)
        except FileNotFoundError:
            raise self._no_bucket() from None

    def upload(self, path: pathlib.Path, name: str) -> None:
        place = f"{self._root}/{name}"
        try:
            self._call(self._files.put_file, str(path), place)
        except FileNotFoundError:
            if path.exists():
                raise self._no_bucket() from None
            raise

    def delete(self, name: str) -> None:
        self._call(self._files.rm_file, f"{self._root}/{name}")

    def _get(self, name: str, path: pathlib.Path) -> None:
        place = f"{self._root}/{name}"
        self._call(self._files.get_file, place, str(path))

    def _call(self, function, *words):
        try:
            return function(*words)
        except FileNotFoundError:
            raise
        except Exception as error:  # each client raises its own
            kinds = {kind.__name__ for kind in type(error).__mro__}
            text = f"{type(error).__name__}: {error}"
            if "PermissionError" not in kinds and kinds & _TRANSIENT:
                raise self._silent(text) from error
            raise self._refused(
                text,
                "Expected credentials that may read, write and delete there "
                "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, "
                "or the role of the machine).",
            ) from error


# Base classes, of Python's and of botocore's exceptions, that say nothing of
# the request itself.
_TRANSIENT = {"OSError", "HTTPClientError", "ConnectionError", "TimeoutError"}


def open_store(uri: str) -> Store:
    """Returns a folder of an object store.

    Args:
        uri: gs://BUCKET/folder, s3://BUCKET/folder or what else fsspec knows.

    Raises:
        UsageError: If there is no client for it here.
    """
    kind = TensorFlowStore if uri.startswith("gs://") else FsspecStore
    return kind(uri)


def _short(text: str) -> str:
    """Returns a message of several lines as one that is not too long."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
