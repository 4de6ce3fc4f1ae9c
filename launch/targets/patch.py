"""A user's own part of a job's document, merged into what we render.

Imports nothing local but the error.
"""

import copy
import pathlib
from typing import Any

import yaml

from data_prep.runtime.errors import UsageError


def apply(documents: list[dict], file: str) -> list[dict]:
    """Returns copies of documents with a patch merged in.

    Args:
        documents: What was rendered.
        file: Path of a YAML file; "" changes nothing. A patch that has a
            `kind` is for the documents of that kind, others are for all.

    Raises:
        UsageError: If the file cannot be read, or is for no document.
    """
    if not file:
        return documents
    # One by one: parts of them are shared.
    documents = [copy.deepcopy(document) for document in documents]
    try:
        patches = list(yaml.safe_load_all(pathlib.Path(file).read_text()))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"--patch={file} cannot be read: {error}.") from None
    for patch in patches:
        if not isinstance(patch, dict) or not patch:
            raise UsageError(
                f"--patch={file} holds {patch!r}: expected a mapping, such as "
                "{spec: {...}}."
            )
        kind = patch.get("kind")
        wanted = [d for d in documents if kind in (None, d.get("kind"))]
        if not wanted:
            kinds = ", ".join(str(d.get("kind")) for d in documents)
            raise UsageError(
                f"--patch={file} is for a {kind}: the job has {kinds}."
            )
        for document in wanted:
            _merge(document, patch)
    return documents


def _merge(into: dict, patch: dict) -> None:
    for key, value in patch.items():
        found = into.get(key)
        if isinstance(found, dict) and isinstance(value, dict):
            _merge(found, value)
        elif _is_named(found) and _is_named(value):
            by_name = {one["name"]: one for one in found}
            for one in value:
                if one["name"] in by_name:
                    _merge(by_name[one["name"]], one)
                else:
                    found.append(one)
        else:
            into[key] = value


def _is_named(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and "name" in one for one in value
    )
