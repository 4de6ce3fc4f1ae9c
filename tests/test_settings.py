"""`data_prep.runtime.settings`: one declaration, and all that comes of it."""

import dataclasses
import re

import pytest
from absl import flags

from data_prep.config import PrepareConfig
from data_prep.runtime import setting_flags
from data_prep.runtime import setting_help
from data_prep.runtime import settings
from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import PROCESS
from data_prep.runtime.settings import READ
from data_prep.runtime.settings import START
from data_prep.runtime.settings import WRITTEN
from data_prep.runtime.settings import setting
from launch.job import Job
from launch.quickstart import QuickstartConfig
from launch.staged import StagedConfig
from launch.workers import WorkersConfig
from trainer.config import Config


@dataclasses.dataclass(frozen=True)
class Size(settings.Group):
    """Shared by two groups below."""

    size: int = setting(3, "Number of things.", low=1, high=9)


@dataclasses.dataclass(frozen=True)
class Places(Size):
    """Places.

    More is not part of the title.
    """

    source: str = setting(
        "",
        "What is read.",
        path=settings.Path(
            READ, stores=True, words=("none",), prefixes=("csv:", "tfds:")
        ),
        scope=PROCESS,
        required=True,
    )
    cache: str = setting(
        "", "What is kept.", path=settings.Path(WRITTEN), scope=PROCESS
    )


@dataclasses.dataclass(frozen=True)
class Ways(Size):
    """Ways."""

    mode: str = setting("fast", "How.", choices=("fast", "slow"), first=True)
    rate: float = setting(0.5, "How quickly.", low=0)
    quiet: bool = setting(False, "Say | nothing.", scope=START)
    tags: tuple[str, ...] = setting((), "Words.", choices=("a", "b"))


class Small(settings.Config):
    """The settings of these tests."""

    places: Places
    ways: Ways

    def check(self):
        if self.ways.quiet and self.ways.size > 8:
            raise UsageError("quiet and large")


CONFIGS = [
    Small,
    Config,
    PrepareConfig,
    Job,
    QuickstartConfig,
    StagedConfig,
    WorkersConfig,
]


def from_flags(*words, config_class=Small):
    """Builds a config as a command line does."""
    values = flags.FlagValues()
    setting_flags.define_flags(config_class, values)
    assert values(["program", *words])[1:] == []
    return setting_flags.from_flags(config_class, values)


def test_values_go_to_their_groups():
    config = Small("photos", mode="slow", size=4)
    assert config.places.source == "photos"
    assert config.ways.mode == "slow"
    assert config.places.size == config.ways.size == 4
    assert config.ways.rate == 0.5


@pytest.mark.parametrize(
    "values, says",
    [
        ({"moed": "slow"}, "no setting 'moed'. Did you mean mode?"),
        ({"mode": "slwo"}, "--mode=slwo is impossible: did you mean slow?"),
        ({"mode": "x"}, "expected one of fast, slow"),
        ({"size": 0}, "--size=0 is impossible: expected 1 to 9"),
        ({"size": 10}, "expected 1 to 9"),
        ({"rate": -0.1}, "expected at least 0"),
        ({"rate": float("nan")}, "expected a finite number"),
        ({"rate": float("inf")}, "expected a finite number"),
        ({"size": True}, "--size=True is impossible: expected a whole number"),
        ({"size": 3.0}, "expected a whole number"),
        ({"size": "3"}, "expected a whole number"),
        ({"rate": "1"}, "expected a number"),
        ({"rate": True}, "expected a number"),
        ({"quiet": 1}, "expected true or false"),
        ({"mode": None}, "expected text"),
        ({"tags": "a"}, "expected several texts"),
        ({"tags": ("a", "c")}, "--tags=c is impossible"),
        ({"cache": "gs://b/c"}, "--cache=gs://b/c is impossible: it lies in"),
        ({"quiet": True, "size": 9}, "quiet and large"),
    ],
)
def test_impossible_values_are_refused(values, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        Small("photos", **values)


@pytest.mark.parametrize("word", ["a\0b", "\ud800"])
def test_what_no_command_line_holds(word):
    with pytest.raises(UsageError, match="--source=.*no command line") as told:
        PrepareConfig(source=word, output_dir="out")
    assert repr(word) in str(told.value)
    # A name of other bytes than UTF-8, as Python spells it.
    assert PrepareConfig(source="\udcff", output_dir="out").source.place


def test_what_is_required():
    with pytest.raises(UsageError, match="--source is missing: What is read"):
        Small()
    with pytest.raises(UsageError, match="--source is missing"):
        Small(source="")
    with pytest.raises(UsageError, match="takes source by position"):
        Small("photos", "cache")
    assert Small("s3://bucket/photos").places.source == "s3://bucket/photos"


def test_numbers_are_taken_as_declared():
    config = Small("photos", rate=1, tags=["a"])
    assert type(config.ways.rate) is float
    assert config.ways.tags == ("a",)


def test_a_config_is_not_changed():
    config = Small("photos")
    with pytest.raises(AttributeError, match="use replace"):
        config.places = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.ways.mode = "slow"
    other = config.replace(mode="slow")
    assert (config.ways.mode, other.ways.mode) == ("fast", "slow")
    assert other != config and other == Small("photos", mode="slow")
    assert hash(other) == hash(Small("photos", mode="slow"))
    assert repr(other) == "Small(source='photos', mode='slow')"
    with pytest.raises(UsageError, match="slwo"):
        config.replace(mode="slwo")


def test_identity_by_scope():
    config = Small("photos", quiet=True)
    assert set(config.identity()) == {"size", "mode", "rate", "tags"}
    assert config.identity(START) == {"quiet": True}
    assert config.identity(PROCESS) == {"source": "photos", "cache": ""}


def test_flags_are_the_same_as_python():
    found = from_flags(
        "--source=photos", "--rate=2", "--quiet", "--tags=a", "--tags=b"
    )
    assert found == Small("photos", rate=2, quiet=True, tags=["a", "b"])
    assert from_flags("--source=photos") == Small("photos")
    with pytest.raises(UsageError) as by_flag:
        from_flags("--source=photos", "--mode=slwo")
    with pytest.raises(UsageError) as in_python:
        Small("photos", mode="slwo")
    assert str(by_flag.value) == str(in_python.value)


def test_of_flags_given_twice_the_last_counts():
    found = from_flags("--source=a", "--size=2", "--size=5", "--source=b")
    assert found == Small("b", size=5)
    found = from_flags("--source=a", "--quiet", "--noquiet")
    assert not found.ways.quiet


def test_spelled_flags_give_the_same_config():
    config = Small("a b", rate=0.25, quiet=True)
    values = {n: v for n, v in config.values().items() if n != "tags"}
    assert from_flags(*setting_flags.spelled(values)) == config


def test_a_setting_beside_a_recipe_wins():
    plain = Config("data", "model")
    recipe = Config("data", "model", recipe="best")
    changed = {
        name: value
        for name, value in recipe.values().items()
        if value != plain.values()[name] and name != "recipe"
    }
    assert changed, "the recipe changes nothing"
    name, value = next(
        (n, v) for n, v in changed.items() if type(v) in (int, float)
    )
    default = plain.values()[name]
    beside = Config("data", "model", recipe="best", **{name: default})
    assert beside.values()[name] == default
    words = ("--data_dir=data", "--model_dir=model", "--recipe=best")
    assert from_flags(*words, config_class=Config) == recipe
    # Also where the flag is given at its default.
    given = from_flags(*words, f"--{name}={default}", config_class=Config)
    assert given == beside != recipe
    assert recipe.values()[name] == value


def test_paths():
    path = {one.name: one.path for one in Small.settings()}["source"]
    assert path.split("/a/b") == ("", "/a/b")
    assert path.split("csv:/a/t.csv") == ("csv:", "/a/t.csv")
    assert path.split("tfds:mnist") == ("tfds:", "")
    assert path.split("tfds:/a/mnist") == ("tfds:", "/a/mnist")
    assert path.split("none") == ("", "")
    assert path.split("") == ("", "")


def test_same_as():
    @dataclasses.dataclass(frozen=True)
    class Other(settings.Group):
        """Other."""

        size: int = settings.same_as(Size, "size", default=5)
        mode: str = settings.same_as(Ways, "mode")

    size, mode = Other.settings()
    (declared,) = Size.settings()
    assert size == dataclasses.replace(declared, default=5)
    assert mode in Ways.settings()


@pytest.mark.parametrize("config_class", CONFIGS)
def test_a_setting_is_declared_once(config_class):
    """Groups that share a name share all of its declaration."""
    found = {}
    for group in config_class.groups().values():
        for one in group.settings():
            assert found.setdefault(one.name, one) == one


@pytest.mark.parametrize("config_class", CONFIGS)
def test_defaults_may_be_had(config_class):
    for group in config_class.groups().values():
        for one in group.settings():
            if not one.required:
                assert one.check(one.default) == one.default


@pytest.mark.parametrize("config_class", CONFIGS)
def test_help_and_tables_list_every_setting_once(config_class):
    help_text = setting_help.help_text(config_class)
    table = setting_help.markdown(config_class)
    named = re.findall(r"^  --(?:\[no\])?(\w+)", help_text, re.MULTILINE)
    names = [one.name for one in config_class.settings()]
    assert sorted(named) == sorted(names)
    assert sorted(re.findall(r"^\| `--(\w+)`", table, re.MULTILINE)) == sorted(
        names
    )
    assert all(len(line) <= 80 for line in help_text.splitlines())


def test_help_shows_what_is_needed_first():
    lines = setting_help.help_text(Small).splitlines()
    assert lines == [
        "Required:",
        "  --source=",
        "      What is read.",
        "",
        "Most used:",
        "  --mode=fast",
        "      How. One of fast, slow.",
        "",
        "Shared:",
        "  --size=3",
        "      Number of things. 1 to 9. For places, ways.",
        "",
        "Places:",
        "  --cache=",
        "      What is kept.",
        "",
        "Ways:",
        "  --rate=0.5",
        "      How quickly. At least 0.",
        "  --[no]quiet",
        "      Say | nothing. Default: false.",
        "  --tags=()",
        "      Words. One of a, b.",
    ]


def test_tables_of_the_documents():
    table = setting_help.markdown(Small)
    assert table.startswith("**Shared**\n\n| flag | default | meaning |\n")
    assert "| `--size` | 3 | Number of things. 1 to 9. For places, ways. |" in (
        table
    )
    # Required and usual ones stand in their group; a | would end a cell.
    assert "| `--mode` | fast | How. One of fast, slow. |" in table
    assert "| `--quiet` | false | Say \\| nothing. |" in table


def test_targets_of_a_launch_setting_are_named():
    text = " ".join(setting_help.help_text(Job).split())
    assert "For slurm, kubernetes." in text
    assert (
        "| `--cpus` | 8 | CPU cores of each machine. At least 1. For slurm, "
        in (setting_help.markdown(Job))
    )


@pytest.mark.parametrize(
    "given, meant",
    [
        ("epochs", "frozen_epochs or finetune_epochs"),
        ("epoch", "frozen_epochs or finetune_epochs"),
        ("lr", "frozen_learning_rate or finetune_learning_rate"),
        ("arch", "base"),
        ("batch", "batch_size"),
        ("image_siz", "image_size"),
        ("wd", "weight_decay"),
    ],
)
def test_names_of_other_tools_are_understood(given, meant, run):
    said = f"Did you mean {meant}? "
    done = run("trainer.task", "--data_dir=d", "--model_dir=m", f"--{given}=3")
    assert done.returncode == 64
    assert f"error: there is no flag --{given}. {said}" in done.stderr
    done = run(
        *("launch.submit", "--dry_run", "--", "--data_dir=d"),
        *("--model_dir=m", f"--{given}=3"),
    )
    assert done.returncode == 64
    assert f"no flag --{given}. {said}" in done.stderr
    with pytest.raises(UsageError, match=re.escape(said)):
        Config("d", "m", **{given: 3})


def test_every_suggestion_is_a_flag():
    known = {one.name for one in Config.settings()}
    for name, meant in Config.also_called.items():
        assert name not in known and set(meant) <= known
    assert Config.suggest("zebra") == ""
