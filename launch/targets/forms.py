"""How the names of platforms look: what is refused before it is sent.

Imports nothing local but the error.
"""

import re

from data_prep.runtime.errors import UsageError

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_FORMS = {
    "Kubernetes name": (rf"{_LABEL}(\.{_LABEL})*", "a-z, 0-9 and -"),
    "Kubernetes namespace": (_LABEL, "a-z, 0-9 and -"),
    "image": (
        # The grammar of distribution/reference, without IPv6 hosts.
        r"([\w.-]+(:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:\w[\w.-]{0,127})?"
        r"(@sha256:[0-9a-f]{64})?",
        "HOST/PATH/NAME:TAG in small letters",
    ),
    "Google region": (r"[a-z]+-[a-z]+\d+", "such as us-central1"),
    "Amazon region": (r"[a-z]{2}(-[a-z]+)+-\d", "such as us-east-1"),
    "Google account": (
        r"[a-z0-9-]+@[a-z0-9.-]+",
        "NAME@PROJECT.iam.gserviceaccount.com",
    ),
    "Amazon role": (
        r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+",
        "arn:aws:iam::ACCOUNT:role/NAME, the account 12 digits",
    ),
    "Amazon instance": (
        r"ml\.[a-z0-9-]+\.(nano|small|medium|metal|\d*x?large)",
        "such as ml.g5.xlarge",
    ),
}
_BUCKETS = r"[a-z0-9][-a-z0-9._]*"


def require(flag: str, value: str, form: str) -> None:
    """Refuses a value of another form.

    Args:
        flag: Without dashes, for the message.
        value: What was given.
        form: A key of the table above.

    Raises:
        UsageError: Saying what is expected.
    """
    pattern, example = _FORMS[form]
    if not re.fullmatch(pattern, value, re.DOTALL):
        raise UsageError(f"--{flag}={value} is no {form}: expected {example}.")


def require_store(flag: str, value: str, schemes: tuple[str, ...]) -> None:
    """Refuses an address that is no folder of one of some stores.

    Args:
        flag: Without dashes, for the message.
        value: What was given.
        schemes: Such as ("gs", "s3").

    Raises:
        UsageError: Saying what is expected.
    """
    pattern = rf"({'|'.join(schemes)})://{_BUCKETS}(/[^\s#?]*)?"
    if not re.fullmatch(pattern, value):
        expected = " or ".join(f"{scheme}://BUCKET/..." for scheme in schemes)
        raise UsageError(
            f"--{flag}={value} is no place that can be used here: expected "
            f"{expected}, without spaces."
        )
