"""Every annotation is checked, with shapes and without."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jaxtyping
import numpy as np
import pytest
import torch
import typecheck
from jaxtyping import Float, Int
from torch import Tensor

from crossmodal.data.views import View
from crossmodal.metrics.mean_classifier import class_means
from modalities import CropBox

checked = typecheck.jaxtyped(typechecker=typecheck.check)


@pytest.mark.parametrize("call", [
    lambda: View(3, None, True),
    lambda: CropBox("0", 0, 1, 1),
    lambda: class_means(torch.zeros(2), torch.zeros(2, dtype=torch.long)),
    lambda: class_means(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long)),
])  # fmt: skip
def test_the_hook_checks_our_own_functions_and_dataclasses(call: object) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


def test_types_are_checked_without_shapes_and_a_whole_number_is_a_number() -> None:
    @checked
    def scale(by: float, names: Sequence[str] = ()) -> float:
        return "much" if names else by

    assert scale(2) == 2
    for arguments in (("2",), (2.0, [3]), (2.0, ["three"])):
        with pytest.raises(jaxtyping.TypeCheckError):
            scale(*arguments)


def test_shapes_are_checked_wherever_they_are_written() -> None:
    @checked
    def plain(rows: Float[Tensor, "batch dim"], index: Int[Tensor, " batch"]) -> None: ...

    @checked
    def nested(rows: dict[str, list[Float[Tensor, "batch dim"] | None]]) -> None: ...

    @checked
    @dataclasses.dataclass
    class Held:
        rows: Float[Tensor, "batch dim"]

    rows, index = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    assert plain(rows, index) is nested({"a": [rows, None]}) is None and Held(rows).rows is rows
    for call in (lambda: plain(rows, index[:1]), lambda: plain(index, index), lambda: nested({"a": [rows[0]]}),
                 lambda: Held(rows[0])):  # fmt: skip
        with pytest.raises(jaxtyping.TypeCheckError):
            call()


def test_the_same_shapes_are_checked_once_and_others_again() -> None:
    counted = []

    def checker(function: Callable) -> Callable:
        def call(*args: object) -> object:
            counted.append(args)
            return function(*args)

        return call

    def plain(rows: Float[Tensor, "{count} dim"], count: int) -> None: ...

    once = typecheck.once(plain, checker(checked(plain)))
    for rows, count in ((2, 2), (2, 2), (3, 3), (2, 2)):
        once(torch.zeros(rows, 4), count)
    assert len(counted) == 2
    for arguments in ((torch.zeros(2, 4), 3), (torch.zeros(2, 4).long(), 2), (np.zeros((2, 4)), 2)):
        for _ in range(2):  # a mistake is not remembered as right
            with pytest.raises(jaxtyping.TypeCheckError):
                once(*arguments)


def test_what_jaxtyping_does_not_need_to_see_costs_its_wrapper_nothing() -> None:
    @checked
    def each(count: int) -> Iterator[int]:
        yield from range(count)

    assert list(each(3)) == [0, 1, 2]
    assert "jaxtyping" not in type(each).__module__ and each.__globals__.get("__name__") != "jaxtyping._decorator"
    assert typecheck.has_shape("Rows") and not typecheck.has_shape(None)
