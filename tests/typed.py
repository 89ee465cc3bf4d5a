"""Types that a test knows but the annotations leave open."""

from torch import Tensor


def tensor(value: object) -> Tensor:
    """Return a value that must be a tensor: the annotation also allows fetched samples, or None."""
    assert isinstance(value, Tensor)
    return value
