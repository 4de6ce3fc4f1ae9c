"""What an exception of a storage client means: missing, refused, or silent.

gcsfs, s3fs and what lies below them (aiohttp, botocore, requests, google.auth)
each raise exceptions of their own. This is the only place that judges them:

- missing: FileNotFoundError, left as it is;
- refused (DataError, exit code 65): credentials, an address, a damaged
  answer. The same request would be refused again;
- silent (Stopped, exit code 75): no answer, or one that asks to come back
  later, after the client's own retries. Platforms start such a run again.
"""

from data_prep.runtime.errors import NO_ROOM
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped

# Classes, or base classes, of exceptions that say nothing of the request
# itself. By name, so that no client need be installed or imported.
_SILENT = {
    "ConnectionError",  # Python, requests, botocore
    "TimeoutError",  # Python, fsspec, aiohttp
    "ClientConnectionError",  # aiohttp
    "ClientPayloadError",  # aiohttp: the answer was cut short
    "HTTPClientError",  # botocore
    "TransportError",  # google.auth: no token to be had
}
_SILENT_STATUS = {408, 429}  # request timeout, too many requests
_CREDENTIALS = {
    "gs": "the account of the machine, the key file that "
    "GOOGLE_APPLICATION_CREDENTIALS names, or yours after "
    "`gcloud auth application-default login`",
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the "
    "role of the machine",
}
_LONGEST = 300  # characters of a client's own message


def translate(url: str, error: Exception) -> Exception:
    """Returns what to raise in place of a client's exception.

    Args:
        url: The address that was asked for.
        error: What the client raised.

    Returns:
        The exception itself where an object is missing or the disk of this
        machine is full; else a DataError or Stopped.
    """
    if isinstance(error, FileNotFoundError):
        return error
    # Of the disk of this machine, while a copy is written to it.
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return error
    text = " ".join(repr(error).split())
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    if _is_silent(error):
        return Stopped(
            f"{url} does not answer: {text}. Run the same command again."
        )
    scheme = url.partition("://")[0]
    credentials = _CREDENTIALS.get(scheme, "those of its client")
    return DataError(
        f"{url} cannot be reached: {text}. Check the address and the "
        "credentials, which must allow what was asked for: "
        f"{credentials}."
    )


def no_bucket(url: str) -> DataError:
    """Returns what to raise where a write finds no bucket."""
    return DataError(
        f"{url} cannot be written: there is no such bucket. Make it, or "
        "correct the address."
    )


def _is_silent(error: Exception) -> bool:
    status = _status(error)
    if status:
        return status >= 500 or status in _SILENT_STATUS
    return bool(_SILENT & {kind.__name__ for kind in type(error).__mro__})


def _status(error: Exception) -> int:
    """Returns the HTTP status of the answer, 0 where none is known."""
    # s3fs turns botocore's ClientError into a plain OSError, and keeps it.
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(getattr(error, "code", ""))  # of gcsfs.retry.HttpError
    return int(code) if code.isdigit() else 0
