"""What is refused between a config and the library's objects: maps compared between views that cannot be laid over."""

import pytest

from crossmodal import ENCODERS, OBJECTIVES
from crossmodal.streams import View
from crossmodal.transfer import Term
from modalities import MODALITIES
from pipelines._build import Teacher, check_alignment
from pipelines._config import ConfigError

ENCODER = ENCODERS.get("convnet")((1, 32, 32), 0, width=4, stages=2)


def view(modality: str, *, aligned: bool = True) -> View:
    return View(MODALITIES.get(modality)(), aligned)


def check(name: str, student: View, teacher: View, **options: object) -> None:
    term = Term(OBJECTIVES.get(name)(ENCODER.spec, ENCODER.spec, 4, **options), teacher="old")
    teachers = {"other": Teacher(ENCODER, "own", []), "old": Teacher(ENCODER, "theirs", [])}
    check_alignment({"first.old": term}, "own", teachers, {"own": student, "theirs": teacher})


def test_maps_of_a_picture_and_of_sound_are_not_compared() -> None:
    words = (
        "objectives.first compares maps place by place, but view 'own' gives a picture and view 'theirs' a "
        "spectrogram; take an objective on embeddings"
    )
    with pytest.raises(ConfigError, match=words):
        check("at", view("depth"), view("audio"))


@pytest.mark.parametrize(("own", "theirs"), [(True, False), (False, True), (False, False)])
def test_maps_of_views_with_windows_of_their_own_are_not_compared(own: bool, theirs: bool) -> None:
    with pytest.raises(ConfigError, match=r"objectives.first .* views 'own' and 'theirs' must both be aligned"):
        check("at", view("depth", aligned=own), view("rgb", aligned=theirs))


def test_maps_of_aligned_pictures_are_compared_and_embeddings_of_anything() -> None:
    check("at", view("depth"), view("rgb"))
    check("fitnet", view("depth", aligned=False), view("audio"), on="embedding")


def test_one_view_is_aligned_with_itself() -> None:
    term = Term(OBJECTIVES.get("at")(ENCODER.spec, ENCODER.spec, 4), teacher="old")
    check_alignment({"at": term}, "own", {"old": Teacher(ENCODER, "own", [])}, {"own": view("rgb", aligned=False)})
