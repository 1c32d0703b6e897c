"""Checks of options, with one wording for all modalities."""


def check_within(low: float, high: float, **options: float) -> None:
    """Refuses options outside [low, high].

    Raises:
        ValueError: one is outside, or is not a number.
    """
    for name, value in options.items():
        if not low <= value <= high:
            raise ValueError(f"{name} must be from {low} to {high}, got {value}")


def check_length(length: int, **options: tuple[float, ...]) -> None:
    """Refuses options that do not have one number per channel.

    Raises:
        ValueError: one is longer or shorter.
    """
    for name, values in options.items():
        if len(values) != length:
            raise ValueError(f"{name} must have {length} numbers, one per channel, got {len(values)}")
