"""Range checks of arguments that several bounds share; NaN is outside every range."""

import math


def check_delta(delta: float, name: str = "delta") -> None:
    """Refuses anything but a probability in (0, 1)."""
    if not 0 < delta < 1:
        raise ValueError(f"{name} must be above 0 and below 1, got {delta}")


def check_count(count: int, name: str, *, least: int = 1) -> None:
    """Refuses anything but a count of `least` or more."""
    if count < least:
        raise ValueError(f"{name} must be {least} or more, got {count}")


def check_risk(risk: float, name: str = "risk", *, greatest: float = 1.0) -> None:
    """Refuses anything but a risk from 0 to `greatest`."""
    if not 0 <= risk <= greatest:
        raise ValueError(f"{name} must be from 0 to {greatest:g}, got {risk}")


def check_nats(value: float, name: str) -> None:
    """Refuses a divergence or union cost below 0; infinity is allowed and gives a vacuous bound."""
    if not value >= 0:
        raise ValueError(f"{name} must be 0 or more, got {value}")


def check_positive(value: float, name: str) -> None:
    """Refuses anything but a finite number above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value}")
