"""The story: source -> audit -> splits -> shards -> manifest."""

from data_prep.catalogue import assignment
from data_prep.catalogue import audit
from data_prep.catalogue import comparison
from data_prep.catalogue import removal
from data_prep.catalogue.database import Catalogue
from data_prep.config import Checks
from data_prep.config import Output
from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset.manifest import Manifest
from data_prep.report import refusal
from data_prep.runners.beam import Beam
from data_prep.runners.processes import Processes
from data_prep.sources import by_kind
from data_prep.writers import description
from data_prep.writers import output
from data_prep.writers import split_writer


def prepare(config: PrepareConfig) -> Manifest:
    """Makes a data set out of labelled images.

    Raises:
        UsageError: If the source gives splits, and others are to be followed.
        DataError: If the images cannot make a data set, or the output folder
            is taken; nothing is left in its place but `audit.json`, beside
            it, where the audit stopped the run.
    """
    source, splits, checks = config.source, config.splits, config.checks
    output_dir = config.output.output_dir
    with (
        output.claim(output_dir, manifest_lib.FILE_NAME) as place,
        Catalogue(place.scratch) as catalogue,
        _start_runner(config.output, place.exchange) as runner,
    ):
        listing = by_kind.list_images(source, place.scratch)
        catalogue.add_files(listing.images)
        classes = audit.list_classes(catalogue, listing.classes, source.source)
        audit.inspect_images(catalogue, runner, splits.seed)
        if checks.on_bad_image == "fail":
            remedy = "pass --on_bad_image=skip to leave them out"
            stopping = dict.fromkeys(("bad_image", "missing_file"), remedy)
            refusal.refuse(catalogue, stopping, output_dir)
        audit.check_classes(catalogue, classes, source.source)
        splits_kept = assignment.keeps_given(catalogue, splits)
        comparison.compare_images(catalogue, splits_kept, checks.similarity)
        refusal.refuse(catalogue, _stopping(checks, splits_kept), output_dir)
        if checks.duplicates == "drop":
            removal.drop_duplicates(catalogue, classes)
        if splits_kept and checks.on_leak == "drop":
            removal.drop_leaks(catalogue, classes)
        classes = assignment.assign(
            catalogue, splits, source.source, place.scratch
        )
        written = split_writer.write_splits(
            source.name, config.records, place, catalogue, classes, runner
        )
        manifest = description.write(
            config, place.folder, catalogue, classes, written
        )
        manifest.save(place.folder)
    return manifest


def _start_runner(output: Output, exchange: str) -> Processes | Beam:
    if output.runner == "beam":
        return Beam(output.beam_options, exchange)
    return Processes(output.workers)


def _stopping(checks: Checks, splits_kept: bool) -> dict[str, str]:
    """Returns the kinds of findings that stop the run, and what lets it go."""
    remedies = {
        kind: f"run without {kind} in --fail_on"
        for kind in checks.fail_on_kinds
    }
    if checks.duplicates == "fail":
        remedies["duplicate"] = "pass --duplicates=drop or keep"
    if splits_kept and checks.on_leak == "fail":
        alike = "; if they only look alike, a --similarity closer to 1, or 0"
        remedies["split_leak"] = (
            "pass --on_leak=drop, which leaves them in the split that is "
            f"evaluated last, or keep{alike}"
        )
        remedies["label_conflict"] = f"pass --on_leak=drop or keep{alike}"
    return remedies
