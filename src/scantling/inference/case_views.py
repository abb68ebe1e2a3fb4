"""The views of a case: its real image and the images that were generated from it, embedded alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scantling.data.alternatives import is_sound, misfit
from scantling.data.case import Case
from scantling.data.image_io import MedicalImage, read_image
from scantling.data.prepare import intensity_maps
from scantling.errors import GeometryError
from scantling.inference.embed import Embedder, Embedding


@dataclass(frozen=True, kw_only=True)
class CaseViews:
    """Images of one anatomy.

    Attributes:
        cases: the real one first, then sound counterfactuals in the order of the table.
    """

    cases: tuple[Case, ...]

    @property
    def case_id(self) -> str:
        """Of the real image."""
        return self.cases[0].case_id


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedView:
    """A view with its features.

    Attributes:
        image: its first file, as it is looked at.
    """

    case: Case
    image: MedicalImage
    embedding: Embedding


def views_of_cases(cases: Iterable[Case]) -> tuple[CaseViews, ...]:
    """Every real case with its sound counterfactuals; a counterfactual whose real case is not there stands alone."""
    cases = tuple(cases)
    present = {case.case_id for case in cases if case.counterfactual_of is None}
    groups: dict[str, list[Case]] = {}
    for case in cases:
        alone = case.counterfactual_of is None or case.counterfactual_of not in present
        if alone:
            groups.setdefault(case.case_id, []).insert(0, case)
        elif is_sound(case):
            groups.setdefault(str(case.counterfactual_of), []).append(case)
    return tuple(CaseViews(cases=tuple(group)) for group in groups.values())


def embed_views(embedder: Embedder, views: CaseViews) -> tuple[EmbeddedView, ...]:
    """Features of every view, all with the intensities of the first, as views in training have them.

    Raises:
        DataError, GeometryError, PlanMismatch: a file cannot be read, or does not fit the plan or its real case.
        IntegrityError, ResourceError: as `Embedder.embed`.
    """
    found: list[EmbeddedView] = []
    maps = None
    for case in views.cases:
        channels = [read_image(path) for path in case.images]
        if found and (said := misfit(found[0].image.geometry, channels[0].geometry, real_id=views.case_id)):
            raise GeometryError(f"case {case.case_id}: {said}", code="E-ALT-02")
        maps = maps or (intensity_maps(channels, embedder.plan) if len(views.cases) > 1 else None)
        found.append(EmbeddedView(case=case, image=channels[0], embedding=embedder.embed(channels, maps=maps)))
    return tuple(found)
