"""What is in a data set, as tables for people."""

from collections.abc import Iterator

from data_prep.catalogue import findings
from data_prep.dataset.manifest import Manifest
from data_prep.report import audit_page


def summarize(manifest: Manifest) -> str:
    """Returns tables: images per class and split, findings, what was left."""
    return "\n".join([*_class_table(manifest), *_remarks(manifest)])


def _class_table(manifest: Manifest) -> Iterator[str]:
    width = max(len(name) for name in (*manifest.classes, "class", "all"))
    splits = manifest.splits.values()
    yield f"{'class':<{width}}" + "".join(f"{n:>12}" for n in manifest.splits)
    for label, name in enumerate(manifest.classes):
        counts = [split.class_counts[label] for split in splits]
        yield f"{name:<{width}}" + "".join(f"{c:>12}" for c in counts)
    counts = [split.count for split in splits]
    yield f"{'all':<{width}}" + "".join(f"{c:>12}" for c in counts)


def _remarks(manifest: Manifest) -> Iterator[str]:
    if manifest.findings:
        yield ""
        yield f"{'audit':<19}{'count':>8}"
    for kind, count in manifest.findings.items():
        yield f"{kind:<19}{count:>8}  {findings.KINDS[kind]}"
    if manifest.skipped:
        yield f"skipped {manifest.skipped} files that are no good images"
    if manifest.dropped:
        yield f"dropped {manifest.dropped} duplicates"
    if manifest.unassigned:
        yield f"left {manifest.unassigned} images that no split takes"
    if manifest.ignored:
        yield f"ignored {manifest.ignored} files that are in no class"
    if manifest.findings:
        yield (
            f"{findings.FILE_NAME} names every one of them, "
            f"{audit_page.FILE_NAME} shows some"
        )
