"""What objectives on class logits share: that both networks tell the same classes apart."""

from crossmodal.encoders._base import Spec


def need_same_classes(name: str, student: Spec, teacher: Spec | None) -> None:
    """Refuses networks without the same classes.

    Raises:
        ValueError: there is no teacher, or the numbers of classes differ or are 0. The message begins with `name`.
    """
    if teacher is None or not 0 < student.classes == teacher.classes:
        theirs = "no teacher" if teacher is None else f"a teacher with {teacher.classes}"
        raise ValueError(
            f"{name} compares class logits, so both must have the same classes; got a student with {student.classes} "
            f"and {theirs} (teachers.NAME.classes is that of a published file; or take an objective on embeddings)"
        )
