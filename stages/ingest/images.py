"""Owns the stage that reads labelled images: from a folder per class, or a manifest."""

from __future__ import annotations

import collections
import csv
import hashlib
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec

from stages import images, kit, sources, values

if TYPE_CHECKING:
    import pyarrow as pa

MOST_IMAGES = 200_000
_SUFFIXES = (".png", ".jpg", ".jpeg")
_SHOWN = 5


class Read(NamedTuple):
    """The images, those that can't be used, and what was found."""

    table: values.Table
    quarantined: values.Table
    report: values.Report


class Labelled(NamedTuple):
    """An image that is to be read: what it is called, and what it shows."""

    path: str
    """From the folder, or the manifest's folder."""
    label: str


class Refused(NamedTuple):
    """An image that can't be used."""

    path: str
    label: str
    reason: str


class NoImages(kit.DataFault):
    """There is not one image."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            f"{sources.shown(uri)!r} holds no image that can be used",
            hint="a folder has a sub-folder for each class, with PNG or JPEG files in it; "
            "a manifest is a CSV file with the columns path and label",
            path=sources.PATH,
        )


class TooManyImages(kit.DataFault):
    """There are more images than are read at once."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            f"{sources.shown(uri)!r} names more than {MOST_IMAGES} images", path=sources.PATH
        )


class BadManifest(kit.DataFault):
    """A manifest is not a CSV file with a path and a label in each row."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(
            f"the manifest {sources.shown(uri)!r} can't be read: {reason}",
            hint="write a CSV file in UTF-8 with the columns path and label",
            path=sources.PATH,
        )


class BadImages(kit.DataFault):
    """Images can't be used, and more of them than may be put aside."""

    def __init__(self, refused: list[Refused], among: int, allowed: float) -> None:
        first = "; ".join(f"{each.path!r}: {each.reason}" for each in refused[:_SHOWN])
        more = f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        super().__init__(
            f"{len(refused)} of {among} images can't be used, and {allowed:.0%} may be: "
            f"{first}{more}",
            hint="mend or remove them, or put them aside: on_bad quarantine with max_bad_share",
            path="$.on_bad",
        )
        self.refused = refused


@kit.stage("ingest.images", libraries=("pillow", "pyarrow"))
class Images(kit.Stage, frozen=True):
    """Read labelled PNG and JPEG images from a folder or a manifest, and decode each to check it.

    The table has the columns `image` (the file's bytes), `label` and `path`.
    """

    uri: str
    """A local folder with a sub-folder per class, or a CSV file with the columns path and label."""
    modes: Annotated[tuple[images.Mode, ...], msgspec.Meta(min_length=1)] = ("L", "RGB")
    """Pillow's modes that are wanted: an image of another is bad."""
    on_bad: Literal["fail", "quarantine"] = "fail"
    """Whether an image that can't be used fails the stage or is put aside."""
    max_bad_share: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.05
    """The largest share that may be put aside."""
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=2**30)] = 32 * 2**20
    """Of one image as it lies; a larger one is bad."""
    max_pixels: Annotated[int, msgspec.Meta(ge=1, le=images.MOST_PIXELS)] = 40_000_000
    """Of one image once it is unpacked; a larger one is bad, and is not unpacked."""

    def fingerprint(self, context: kit.Context) -> str | None:
        """Digest the list of images and each of them."""
        try:
            folder, asked, _ = _listed(self.uri, context)
        except kit.DataFault:
            return None
        uris = [str(folder / each.path) for each in asked]
        content = sources.digests(uris, context.services)
        named = hashlib.sha256(msgspec.json.encode(asked)).hexdigest()
        return f"{named}|{content}"

    def run(self, context: kit.Context) -> Read:
        """Read and check every image."""
        folder, asked, ignored = _listed(self.uri, context)
        good: list[tuple[Labelled, bytes]] = []
        refused: list[Refused] = []
        size = 0
        for place, each in enumerate(asked):
            context.progress(place / len(asked), f"checking {each.path}")
            try:
                raw = self._raw(folder, each, context.services)
            except images.BadImage as error:
                refused.append(Refused(each.path, each.label, error.reason))
                continue
            size += len(raw)
            if size > context.services.max_input_bytes:
                raise sources.TooLarge(self.uri, context.services.max_input_bytes)
            good.append((each, raw))
        self._judge(refused, len(asked))
        if not good:
            raise NoImages(self.uri)
        report = _report(self.uri, [each for each, _ in good], refused, ignored, size)
        return Read(values.Table(_table(good)), values.Table(_aside(refused)), report)

    def _raw(self, folder: pathlib.Path, each: Labelled, services: kit.Services) -> bytes:
        path = sources.local_path(str(folder / each.path), services)
        try:
            if not path.is_file():
                msg = "there is no such file"
                raise images.BadImage(msg)
            with path.open("rb") as source:
                raw = source.read(self.max_bytes + 1)
        except OSError as error:
            msg = f"it can't be read: {error.strerror}"
            raise images.BadImage(msg) from error
        if len(raw) > self.max_bytes:
            msg = f"it is larger than {self.max_bytes} bytes"
            raise images.BadImage(msg)
        if not each.label:
            msg = "it has no label"
            raise images.BadImage(msg)
        images.check(raw, self.modes, self.max_pixels)
        return raw

    def _judge(self, refused: list[Refused], among: int) -> None:
        allowed = self.max_bad_share if self.on_bad == "quarantine" else 0.0
        if len(refused) > allowed * among:
            raise BadImages(refused, among, allowed)


def _listed(uri: str, context: kit.Context) -> tuple[pathlib.Path, list[Labelled], int]:
    """Give the folder, its images in one order, and how many other files were passed over."""
    if not sources.is_local(uri):
        raise sources.Unreadable(uri, "images are read from local folders", "mount the folder")
    place = sources.local_path(uri, context.services)
    folder, ignored = place, 0
    if place.is_dir():
        asked, ignored = _in_folders(place)
    else:
        folder, asked = place.parent, list(_in_manifest(uri, sources.fetch(uri, context)))
    if not asked:
        raise NoImages(uri)
    if len(asked) > MOST_IMAGES:
        raise TooManyImages(uri)
    return folder, asked, ignored


def _in_folders(place: pathlib.Path) -> tuple[list[Labelled], int]:
    found, ignored = [], 0
    for folder in sorted(each for each in place.iterdir() if each.is_dir()):
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in _SUFFIXES:
                found.append(Labelled(f"{folder.name}/{path.name}", folder.name))
            else:
                ignored += 1
    return found, ignored


def _in_manifest(uri: str, path: pathlib.Path) -> Iterator[Labelled]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as source:
            rows = csv.DictReader(source, strict=True)
            if missing := {"path", "label"} - set(rows.fieldnames or ()):
                raise BadManifest(uri, f"it has no column {' and '.join(sorted(missing))}")
            for row in rows:
                if not row["path"] or row["label"] is None:
                    raise BadManifest(uri, f"line {rows.line_num} has no path or no label")
                yield Labelled(row["path"], row["label"])
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadManifest(uri, str(error)) from error


def _table(good: list[tuple[Labelled, bytes]]) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {
            "image": pa.array([raw for _, raw in good], pa.binary()),
            "label": pa.array([each.label for each, _ in good], pa.string()),
            "path": pa.array([each.path for each, _ in good], pa.string()),
        }
    )


def _aside(refused: list[Refused]) -> pa.Table:
    import pyarrow as pa

    names = Refused._fields
    fields = pa.schema([(name, pa.string()) for name in names])
    return pa.Table.from_pylist([each._asdict() for each in refused], schema=fields)


def _report(
    uri: str, good: list[Labelled], refused: list[Refused], ignored: int, size: int
) -> values.Report:
    classes = dict(sorted(collections.Counter(each.label for each in good).items()))
    said = f"{len(good)} images of {len(classes)} classes, {len(refused)} put aside"
    report: dict[str, Any] = {"title": "Images", "summary": said, "source": sources.shown(uri)}
    counts = {"images": len(good), "quarantined": len(refused), "ignored": ignored, "bytes": size}
    return values.Report(report | counts | {"classes": classes})
