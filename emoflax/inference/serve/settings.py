"""What a service accepts at most, and how long anything may take."""

import dataclasses
import math

from emoflax.errors import UserError

RATE_HZ = 48_000  # at which `longest_s` is counted in samples: a recording of a higher rate may be shorter


@dataclasses.dataclass(frozen=True)
class Settings:
    """Limits of a service; `--limits=NAME=VALUE` sets any of them.

    Attributes:
      largest_mb: of a request's body, in 10^6 bytes.
      longest_s: of a recording that is decoded, and of a window.
      most_rows: windows of one recording.
      most_requests: predictions under way at once; more are answered with status 429.
      most_held_s: of decoded recordings that wait for the model together; more are answered with status 429.
      timeout_s: for receiving one request, and for predicting it.
      batch_ms: for which the first request of a batch waits for others, while the model is idle.
      batch_rows: recordings in a batch.
      decoders: processes that decode; 0: one per usable core.
      most_streams: WebSockets at once.
      longest_stream_s: of the sound of one stream.
    """

    largest_mb: float = 20.0
    longest_s: float = 300.0
    most_rows: int = 1000
    most_requests: int = 128
    most_held_s: float = 3600.0
    timeout_s: float = 30.0
    batch_ms: float = 3.0
    batch_rows: int = 16
    decoders: int = 0
    most_streams: int = 8
    longest_stream_s: float = 3600.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 0 if field.name in ("batch_ms", "decoders") else 1
            if not (math.isfinite(value) and least <= value <= 1e6):
                raise UserError(f"--limits={field.name}={value:g}: it must be from {least} to 1000000")

    @property
    def most_bytes(self) -> int:
        return round(self.largest_mb * 1e6)

    @property
    def most_samples(self) -> int:
        return round(self.longest_s * RATE_HZ)


def parsed(given: list[str]) -> Settings:
    """Settings of ['NAME=VALUE', ...].

    Raises:
      UserError: a name or a value that cannot be.
    """
    kinds = {field.name: type(field.default) for field in dataclasses.fields(Settings)}
    values = {}
    for one in given:
        name, _, value = one.partition("=")
        if name not in kinds:
            raise UserError(f"--limits={one}: there is no limit {name!r}; there are {', '.join(kinds)}")
        try:
            values[name] = kinds[name](value)
        except ValueError:
            raise UserError(f"--limits={one}: {value!r} is no {'whole ' * (kinds[name] is int)}number") from None
    return Settings(**values)
