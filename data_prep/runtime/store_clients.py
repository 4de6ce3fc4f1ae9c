"""The clients of object storage: gcsfs for gs://, s3fs for s3://, by fsspec."""

import logging
from collections.abc import Callable
from typing import Any

from data_prep.runtime import store_errors
from data_prep.runtime.errors import UsageError

# What fsspec opens too, and lists no folders of.
_NO_STORES = ("http", "https", "ftp", "sftp")
# Without a byte, after which a request is made again. gcsfs of itself gives a
# request 5 minutes in all, however much it has to copy.
_SILENCE_SECONDS = 60


def call(url: str, function: Callable, *arguments: Any) -> Any:
    """Calls a client, whose exceptions become ours.

    Raises:
        FileNotFoundError: If there is no such object, or no such bucket.
        DataError: If the store refuses.
        Stopped: If it does not answer.
    """
    try:
        return function(*arguments)
    except Exception as error:  # each client has its own
        raise store_errors.translate(url, error) from None


def open_store(url: str) -> tuple[Any, str]:
    """Returns the fsspec file system of an address, and the path in it.

    Raises:
        UsageError: If its client is not installed, or there is none.
    """
    if url.partition("://")[0] in _NO_STORES:
        raise UsageError(
            f"{url} is no object storage. Download what is there, and pass "
            "the folder; or pass an address that begins with gs:// or s3://."
        )
    # Others write there too, and a listing can be long.
    options = {"use_listings_cache": False}
    try:
        if url.startswith("gs://"):
            system = _open_gcs(options)
            root = system._strip_protocol(url)
        else:
            import fsspec

            system, root = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{url} cannot be opened: {error}. Expected gs://, which takes "
            "`pip install 'shardtune[gcs]'`, or s3://, which takes "
            "`pip install 'shardtune[s3]'`."
        ) from None
    except Exception as error:  # credentials
        raise store_errors.translate(url, error) from None
    return system, root.rstrip("/")


def _open_gcs(options: dict[str, Any]) -> Any:
    """Returns gcsfs's client of the JSON service.

    What fsspec takes for gs:// asks a second service, by gRPC, what kind of
    bucket it is; where that cannot be reached, before every request.
    """
    import aiohttp
    from gcsfs.core import GCSFileSystem

    # It logs every error with a traceback before it raises it.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    return GCSFileSystem(
        requests_timeout=aiohttp.ClientTimeout(
            total=None,
            sock_connect=_SILENCE_SECONDS,
            sock_read=_SILENCE_SECONDS,
        ),
        **options,
    )
