"""Reading labelled images: what is taken, and what is said of the rest."""

import io
import struct
import zlib

import msgspec
import pytest
from PIL import Image
from sklearn import datasets

from stages import images, kit, sources
from stages.ingest import images as stage

DIGITS = datasets.load_digits()


def png(number, mode="L", form="PNG", size=(64, 64)):
    picture = Image.fromarray((DIGITS.images[number] * 15).astype("uint8")).resize(size)
    sink = io.BytesIO()
    picture.convert(mode).save(sink, form)
    return sink.getvalue()


def claiming(side):
    """Give a small PNG whose header claims to be of this many pixels a side."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    whole = png(3)
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


@pytest.fixture
def folder(tmp_path):
    """Write two images of each of three digits, one folder for each digit."""
    for number in (0, 1, 2, 10, 11, 12):
        place = tmp_path / "root" / "digits" / str(DIGITS.target[number])
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(png(number))
    (tmp_path / "work").mkdir()
    return tmp_path / "root" / "digits"


def context_of(folder, limit=10**8):
    services = kit.Services(data_roots=(str(folder.parent),), max_input_bytes=limit)
    return kit.Context(workdir=folder.parent.parent / "work", services=services)


def read(folder, limit=10**8, uri="digits", **params):
    made = msgspec.convert({"uri": uri, **params}, stage.Images)
    return made.run(context_of(folder, limit))


def test_a_folder_per_class_becomes_a_table_of_bytes_labels_and_paths(folder):
    found = read(folder)
    table = found.table.arrow
    assert table.column("label").to_pylist() == ["0", "0", "1", "1", "2", "2"]
    assert table.column("path")[0].as_py() == "0/0.png"
    assert table.column("image")[0].as_py() == (folder / "0" / "0.png").read_bytes()
    assert found.report.data["classes"] == {"0": 2, "1": 2, "2": 2}
    assert found.quarantined.rows() == 0


def test_a_manifest_names_images_beside_it(folder):
    (folder / "list.csv").write_text("path,label\n2/2.png,two\n0/0.png,nought\n")
    table = read(folder, uri="digits/list.csv").table.arrow
    assert table.column("label").to_pylist() == ["two", "nought"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not an image", "neither PNG nor JPEG"),
        (png(3)[:-60], "can't be decoded"),
        (png(3, "RGB", "JPEG")[:-200], "can't be decoded"),
        (png(3, form="GIF"), "neither PNG nor JPEG"),
        (png(3, "RGBA"), r"RGBA \(4 channels\), and L or RGB is wanted"),
        (png(3, size=(200, 200)), "more than 10000 pixels"),
        (claiming(20_000), "more than 10000 pixels"),
        (b"x" * 50_001, "larger than 50000 bytes"),
    ],
    ids=["text", "cut_png", "cut_jpeg", "gif", "mode", "pixels", "bomb", "bytes"],
)
def test_an_image_that_cannot_be_used_is_named_with_the_reason(folder, content, reason):
    (folder / "1" / "bad.png").write_bytes(content)
    limits = {"max_pixels": 10_000, "max_bytes": 50_000}
    with pytest.raises(stage.BadImages, match=rf"1 of 7 .*'1/bad.png': .*{reason}"):
        read(folder, **limits)
    found = read(folder, on_bad="quarantine", max_bad_share=0.2, **limits)
    assert found.table.rows() == 6
    assert found.quarantined.arrow.column("path").to_pylist() == ["1/bad.png"]


def test_more_bad_images_than_may_be_put_aside_fail(folder):
    (folder / "1" / "bad.png").write_bytes(b"")
    with pytest.raises(stage.BadImages, match="10% may be"):
        read(folder, on_bad="quarantine", max_bad_share=0.1)


def test_images_outside_the_roots_are_refused(folder):
    (folder.parent.parent / "secret.png").write_bytes(png(3))
    (folder / "1" / "link.png").symlink_to(folder.parent.parent / "secret.png")
    with pytest.raises(sources.OutsideRoots):
        read(folder)
    (folder / "list.csv").write_text("path,label\n../../secret.png,x\n")
    with pytest.raises(sources.OutsideRoots):
        read(folder, uri="digits/list.csv")


@pytest.mark.parametrize("text", ["path,kind\na,b\n", "path,label\n,b\n", "path,label\na\n"])
def test_a_manifest_without_paths_or_labels_is_refused(folder, text):
    (folder / "list.csv").write_text(text)
    with pytest.raises(stage.BadManifest):
        read(folder, uri="digits/list.csv")


def test_a_folder_without_images_is_refused(folder):
    (folder.parent / "empty").mkdir()
    with pytest.raises(stage.NoImages):
        read(folder, uri="empty")


def test_all_images_together_have_a_limit(folder):
    with pytest.raises(sources.TooLarge):
        read(folder, limit=2000)


def test_the_fingerprint_follows_content_and_names(folder):
    made = stage.Images(uri="digits")
    first = made.fingerprint(context_of(folder))
    assert made.fingerprint(context_of(folder)) == first
    (folder / "0" / "0.png").rename(folder / "1" / "0.png")
    second = made.fingerprint(context_of(folder))
    (folder / "1" / "0.png").write_bytes(png(5))
    assert len({first, second, made.fingerprint(context_of(folder))}) == 3


def test_a_good_image_passes():
    images.check(png(3, "RGB", "JPEG"), ["RGB"], 10_000)
