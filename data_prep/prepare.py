"""The story: source -> audit -> splits -> shards -> manifest."""

from data_prep.catalogue import assignment
from data_prep.catalogue import audit
from data_prep.catalogue import findings
from data_prep.catalogue.database import Catalogue
from data_prep.config import Checks
from data_prep.config import Output
from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset.manifest import Manifest
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
    source, splits = config.source, config.splits
    output_dir = config.output.output_dir
    with (
        output.claim(output_dir, manifest_lib.FILE_NAME) as place,
        Catalogue(place.scratch) as catalogue,
        _start_runner(config.output, place.exchange) as runner,
    ):
        listing = by_kind.list_images(source, place.scratch)
        catalogue.add_files(listing.images)
        audit.inspect_images(catalogue, runner, splits.seed)
        if config.checks.on_bad_image == "fail":
            findings.refuse(catalogue, ["bad_image"], output_dir)
        classes = audit.check_classes(catalogue, listing.classes, source.source)
        splits_kept = assignment.keeps_given(catalogue, splits)
        findings.compare_images(catalogue, splits_kept)
        findings.refuse(catalogue, _stopping(config.checks), output_dir)
        if config.checks.duplicates == "drop":
            findings.drop_duplicates(catalogue)
        assignment.assign(catalogue, splits, source.source, place.scratch)
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


def _stopping(checks: Checks) -> list[str]:
    """Returns the kinds of findings that stop the run."""
    duplicate = ["duplicate"] if checks.duplicates == "fail" else []
    return [*duplicate, *checks.fail_on_kinds]
