"""The contact sheet of a folder of shards."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from crossmodal.data.manifest import open_field
from crossmodal.data.reader import UnevenError, open_view
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.stores.paths import AnyPath
from pipelines.config import at
from pipelines.reporting.pictures import contact_sheet
from pipelines.runs.console import say
from pipelines.schemas.common import ViewConfig


def draw_sheet(folder: AnyPath, views: Mapping[str, ViewConfig], *, aligned: bool = True) -> Path:
    """Writes sheet.png into a folder of shards: some pairs by the views, or all stored fields if there are none.

    Of shards in a store, the sheet is written into the current folder.

    Args:
        folder: of the shards.
        views: to be drawn.
        aligned: of stored fields: whether equal positions show the same.
    """
    shards, opened = Shards.open(folder), {}
    sheet = folder / "sheet.png" if isinstance(folder, Path) else Path(f"{folder.name}-sheet.png")
    for name, view in views.items():
        with at(f"sheet.{name}"):
            opened[name] = open_view(shards, view.modality, aligned=view.aligned, **view.options)
    fields = {} if views else shards.manifest.fields  # drawn as stored, whatever the range of a view
    statistics = shards.manifest.statistics
    whole = {name: View(open_field(name, spec).show_all(statistics[name])) for name, spec in fields.items()}
    try:
        if aligned or opened:
            return contact_sheet(shards, opened or whole, sheet)
    except UnevenError as error:
        if opened:
            raise
        say(f"{error}; the sheet shows each with its own crop")
    apart = {name: replace(view, aligned=False) for name, view in whole.items()}
    return contact_sheet(shards, apart, sheet)
