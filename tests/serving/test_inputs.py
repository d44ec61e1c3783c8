"""What a deployed model takes and says: types, problems and predictions, without a host."""

from __future__ import annotations

import base64
import datetime as dt
import math

import msgspec
import pytest

from agent.bus import endpoints
from agent.serving import inputs, predictor, replica
from protocol import artifacts, codec, problems, serving
from stages import kit, models, values
from stages.frameworks import adapters, base
from tests.stages.frameworks import digits

COLUMNS = [
    models.Column("fixed acidity", "double"),
    models.Column("count", "int8"),
    models.Column("kind", "string"),
    models.Column("seen", "timestamp[us, tz=UTC]"),
    models.Column("good", "bool"),
]
ROW = {
    "fixed acidity": 1.5,
    "count": 3,
    "kind": "red",
    "seen": "2026-01-01T00:00:00Z",
    "good": None,
}


def asked(**changes):
    return msgspec.json.encode({"row": ROW | changes})


def found(body, columns=COLUMNS, **more):
    """Give code and path of each problem of a request."""
    with pytest.raises((endpoints.Refusal, codec.ProtocolError)) as caught:
        inputs.Inputs(columns, **more).read(body)
    problem = endpoints.problem_of(caught.value)
    return {(one.code, one.path) for one in problem.problems or [problem]}


def test_rows_become_a_frame_typed_as_in_training():
    import pyarrow as pa

    reader = inputs.Inputs(COLUMNS)
    frame = inputs.frame([reader.read(asked())])
    instant = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    trained = pa.table(
        {
            "fixed acidity": pa.array([1.5]),
            "count": pa.array([3], pa.int8()),
            "kind": pa.array(["red"]),
            "seen": pa.array([instant], pa.timestamp("us", "UTC")),
            "good": pa.array([None], pa.bool_()),
        }
    )
    assert frame.equals(values.Table(trained).pandas())
    assert list(frame.dtypes) == list(values.Table(trained).pandas().dtypes)


def test_every_problem_is_told_at_once_with_its_path():
    wrong = asked(count=300, kind=7, more=1)
    assert found(wrong) == {
        ("invalid_field", "$.row.count"),
        ("invalid_field", "$.row.kind"),
        ("unknown_field", "$.row.more"),
    }
    assert ("invalid_field", "$.row['fixed acidity']") in found(b'{"row": {}}')


def test_a_time_without_its_zone_is_refused_where_the_column_has_one():
    assert found(asked(seen="2026-01-01T00:00:00")) == {("invalid_field", "$.row.seen")}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_in_json_is_told_as_such(number):
    body = b'{"row": {"fixed acidity": ' + number.encode() + b"}}"
    assert found(body) == {("invalid_field", "$")}


def test_what_is_no_number_is_refused_in_messagepack_too():
    columns = [models.Column("x", "double")]
    body = msgspec.msgpack.encode({"rows": [{"x": 1.0}, {"x": math.nan}]})
    with pytest.raises(inputs.NotFinite) as caught:
        inputs.Inputs(columns).read(body, codec.MSGPACK)
    assert caught.value.problem.path == "$.rows[1].x"


def streamed(**columns):
    import pyarrow as pa

    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_a_table_is_taken_as_it_is_and_its_columns_checked_as_those_of_rows():
    columns = [models.Column("x", "double"), models.Column("n", "int8")]
    reader = inputs.Inputs(columns, most=3)
    taken = reader.read(streamed(n=[1, 2], x=[0, 1]), inputs.ARROW)
    rows = [{"x": 0.0, "n": 1}, {"x": 1.0, "n": 2}]
    assert inputs.frame([taken]).equals(inputs.frame([reader.take(rows)]))

    def wrong(body):
        with pytest.raises(endpoints.Refusal) as caught:
            reader.read(body, inputs.ARROW)
        problem = caught.value.problem
        return {(one.code, one.path) for one in problem.problems or [problem]}

    assert wrong(streamed(n=[300], z=[1.0])) == {
        ("unknown_field", "$.z"),
        ("invalid_field", "$.x"),
        ("invalid_field", "$.n"),
    }
    assert wrong(streamed(x=[1.0, math.nan], n=[1, 2])) == {("invalid_field", "$.rows[1].x")}
    assert wrong(streamed(x=[1.0] * 4, n=[1] * 4)) == {("payload_too_large", "$.rows")}
    assert wrong(streamed(x=[], n=[])) == {("invalid_field", "$")}
    assert wrong(b"PK") == wrong(streamed(x=[1.0], n=[1])[:60]) == {("invalid_json", "$")}


def test_more_rows_than_are_taken_are_refused():
    columns = [models.Column("x", "double")]
    body = b'{"rows": [{"x": 1}, {"x": 2}, {"x": 3}]}'
    assert found(body, columns, most=2) == {("payload_too_large", "$.rows")}
    assert inputs.Inputs(columns, most=3).read(body).table.num_rows == 3


def test_a_column_that_no_request_can_carry_is_refused_from_the_start():
    with pytest.raises(inputs.NotServable, match="blob"):
        inputs.Inputs([models.Column("blob", "duration[s]")])


@pytest.fixture(scope="module")
def wine():
    """Give a classifier of real wines, and their rows."""
    from sklearn import datasets, ensemble

    found = datasets.load_wine(as_frame=True)
    labels = found.target.map({0: "a", 1: "b", 2: "c"}).to_numpy(dtype=object)
    fitted = ensemble.RandomForestClassifier(20, random_state=0).fit(found.data, labels)
    card = models.ModelCard(
        framework="sklearn",
        estimator="RandomForestClassifier",
        task="classification",
        target="cultivar",
        columns=[models.Column(name, "double") for name in found.data.columns],
        classes=["c", "b", "a"],
    )
    return models.Model.from_sklearn(fitted, card), found.data, fitted


def test_a_deployed_classifier_says_what_the_model_says(wine):
    model, frame, fitted = wine
    serves = predictor.Predictor(model)
    rows = frame.to_dict("records")
    (plain,) = serves.predict([serves.inputs.take(rows)])
    assert plain.predictions == fitted.predict(frame).tolist()
    assert plain.probabilities is None
    body = msgspec.json.encode({"rows": rows[:2], "probabilities": True})
    (likely,) = serves.predict([serves.inputs.read(body)])
    assert likely.classes == ["c", "b", "a"]
    assert likely.probabilities == fitted.predict_proba(frame[:2])[:, ::-1].tolist()


async def test_nobody_suffers_from_what_another_has_asked(wine, tmp_path):
    model, frame, fitted = wine
    one = _replica(model, tmp_path)
    rows = frame.to_dict("records")
    bodies = [msgspec.json.encode({"row": row}) for row in rows[:3]]
    questions = [(bodies[0], None), (b"{", None), (bodies[1], "text/odd"), (bodies[2], None)]
    answers = await one.predict(questions)
    assert [number for number, _ in answers] == [0, 400, 400, 0]
    said = [msgspec.json.decode(answers[n][1], type=serving.Predicted) for n in (0, 3)]
    expected = fitted.predict(frame[:3]).tolist()
    assert [one.predictions for one in said] == [[expected[0]], [expected[2]]]


async def test_a_replica_without_its_model_says_why(wine, tmp_path):
    model, _, _ = wine
    ref = _stored(model, tmp_path)
    gone = msgspec.structs.replace(ref, digest=f"sha256:{'0' * 64}", uri=ref.uri[:-64] + "0" * 64)
    one = replica.Replica(_place(gone, tmp_path))
    about = msgspec.json.decode(await one.describe(), type=replica.About)
    assert about.problem is not None
    ((number, body),) = await one.predict([(b"{}", None)])
    told = msgspec.json.decode(body, type=problems.Problem)
    assert (number >= 400, told.code) == (True, about.problem.code)


def _stored(model, folder) -> artifacts.ArtifactRef:
    from agent.artifacts import store

    return store.Store((folder / "store").as_uri(), folder / "copies").make().put(model)


def _place(ref, folder) -> bytes:
    uri = (folder / "store").as_uri()
    return msgspec.json.encode(replica.Place(ref, uri, str(folder / "copies")))


def _replica(model, folder) -> replica.Replica:
    return replica.Replica(_place(_stored(model, folder), folder))


def network():
    """Train a small network on images."""
    framework = adapters.named("torch-images")
    table = digits.table(range(60), side=16).arrow
    params = {"image_size": 16, "epochs": 1}
    lesson = base.Lesson(framework="torch-images", model="small-cnn", target="label", params=params)
    setup = framework.prepare(lesson, table, None)
    *steps, verdict = framework.score(setup, table, {}, floor=None, checkpoint=None)
    fitted = framework.fit(setup, table, {}, steps[-1].checkpoint)
    card = base.card_of(framework, setup, {}, verdict.metrics, fitted.details)
    return models.Model(card, fitted.payload, framework.payload)


def test_images_are_asked_about_in_base64_and_as_they_are():
    model = network()
    told = predictor.Predictor(model)
    image = digits.png(1, side=16)
    rows = {"rows": [{"image": image}], "probabilities": True}
    as_json = told.inputs.read(msgspec.json.encode(rows))
    packed = told.inputs.read(msgspec.msgpack.encode(rows), "application/msgpack")
    both = told.predict([as_json, packed])
    assert both[0].predictions[0] in model.card.classes
    assert both[0] == both[1]
    text = base64.b64encode(image).decode()
    assert told.inputs.read(msgspec.json.encode({"row": {"image": text}})).table == as_json.table
    assert found(b'{"row": {"image": "?"}}', model.card.columns) == {
        ("invalid_field", "$.row.image")
    }


def test_an_image_that_cannot_be_decoded_is_told():
    told = predictor.Predictor(network())
    asked = told.inputs.read(msgspec.json.encode({"row": {"image": digits.png(1)[:40]}}))
    with pytest.raises(kit.StageFault, match="image"):
        told.predict([asked])
