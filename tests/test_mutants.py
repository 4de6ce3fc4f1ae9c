"""The list of small wrong changes fits the code that it changes."""

from benchmarks import mutants


def test_every_change_can_be_made():
    found = mutants.read()
    assert len(found) > 90
    for one in found:
        changed = (mutants.ROOT / one.file).read_text()
        changed = changed.replace(one.old, one.new)
        compile(changed, one.file, "exec")
        assert one.new != one.old
