"""The settings of `trainer.serve`, which `launch` checks too."""

import dataclasses

from data_prep.runtime import settings
from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import setting
from trainer import groups


@dataclasses.dataclass(frozen=True)
class Serving(settings.Group):
    """Serving."""

    model_dir: str = settings.same_as(
        groups.Run, "model_dir", help="What trainer.task wrote."
    )
    host: str = setting(
        "127.0.0.1",
        "Address to listen at; 0.0.0.0 is for everybody who reaches this "
        "machine.",
        first=True,
    )
    port: int = setting(
        8501,
        "Port to listen at; 0 takes one that is free and says which.",
        low=0,
        high=65535,
        first=True,
    )
    name: str = setting("model", "The model's name in /v1/models/NAME.")
    batch_size: int = setting(
        32, "Images that the model takes at once; 1 joins no requests.", low=1
    )
    batch_ms: float = setting(
        2.0,
        "Milliseconds that an image waits for others at most, while the model "
        "is idle.",
        low=0,
        high=10_000,
    )
    queue: int = setting(
        128,
        "Images that are accepted and not yet answered; more are refused "
        "with 429.",
        low=1,
    )
    max_mb: int = setting(
        16, "MiB of a request; a larger one is refused with 413.", low=1
    )
    nearest: bool = setting(
        True,
        "Show the nearest training images, which at the first start runs the "
        "network over them.",
    )


class ServeConfig(settings.Config):
    """The flags of `trainer.serve`."""

    serving: Serving

    def check(self) -> None:
        """Refuses a name that cannot stand in an address."""
        name = self.serving.name
        if not name.replace("-", "").replace("_", "").isalnum():
            raise UsageError(
                f"--name={name} is impossible: expected letters, digits, - "
                "and _."
            )
