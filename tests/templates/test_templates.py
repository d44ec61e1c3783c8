"""Templates: pure designs that the catalog accepts, and refusals that say what to mend."""

from __future__ import annotations

import pytest

from agent import catalog, templates
from protocol import pipelines


def profile(*names: str, rows: int = 1000, **more: dict[str, object]) -> dict[str, object]:
    """Make a profile as `quality.profile` reports it."""
    columns = [
        {"name": name, "kind": "number", "nulls": 0, "distinct": 9} | more.get(name, {})
        for name in names
    ]
    return {"rows": rows, "columns": columns}


TABLE = profile("y", "g", "a", "b")
SERIES = profile("week", "y")
FINDINGS = profile("rule_id", "level", "file", "message", "snippet", "suppressed")
IMAGES = profile("image", "label", "path")
CASES = {
    "tabular-classification": ({"uri": "a.csv", "target": "y", "group": "g"}, TABLE),
    "tabular-regression": ({"uri": ["a.csv", "b.csv"], "target": "y"}, TABLE),
    "time-series-forecast": (
        {"uri": "a.csv", "time": "week", "target": "y", "horizon": 13, "season": 52},
        SERIES,
    ),
    "finding-triage": ({"uri": "a.sarif"}, FINDINGS),
    "image-classification": ({"uri": "pictures"}, IMAGES),
    "text-classification": ({"uri": "a.csv", "target": "y", "text": "a", "group": "g"}, TABLE),
}


def design(name: str, *, data: dict[str, object] | None = None, **more: object):
    params, usual = CASES[name]
    return templates.design(name, params | more, data or usual)


def stage(pipeline: pipelines.Pipeline, name: str) -> pipelines.Stage:
    return next(each for each in pipeline.stages if each.id == name)


@pytest.mark.parametrize("name", CASES)
def test_every_design_is_a_pipeline_that_the_catalog_accepts(name):
    assert catalog.Catalog().check(design(name)) == []


@pytest.mark.parametrize("name", CASES)
def test_a_design_is_a_pure_function_of_parameters_and_profile(name):
    assert design(name) == design(name)


@pytest.mark.parametrize("name", CASES)
def test_every_design_registers_only_what_beats_baseline_and_champion(name):
    (condition,) = stage(design(name), "keep").when
    assert (condition.metric, condition.op, condition.value) == ("compare.win", "==", 1.0)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"time-series-forecast"}))
def test_what_is_registered_is_deployed_only_where_it_is_asked_for(name):
    assert "deploy" not in {each.id for each in design(name).stages}
    asked = design(name, deploy=True)
    assert catalog.Catalog().check(asked) == []
    deploy = stage(asked, "deploy")
    assert deploy.inputs["registered"] == "keep"
    assert deploy.when == stage(asked, "keep").when
    assert deploy.params["name"] == stage(asked, "keep").params["name"]


@pytest.mark.parametrize("name", CASES)
def test_the_profiled_source_is_the_first_stage_of_the_design(name):
    source = templates.source(name, CASES[name][0])
    assert design(name).stages[0] == source


@pytest.mark.parametrize("name", CASES)
def test_every_design_profiles_training_rows_alone(name):
    assert stage(design(name), "profile").inputs == {"table": "split.train"}


def test_every_template_has_a_card_with_its_parameters():
    cards = {card.name: card for card in templates.cards()}
    assert list(cards) == templates.names() == list(CASES)
    assert all(card.summary for card in cards.values())


def test_an_unknown_template_is_refused_with_a_suggestion():
    with pytest.raises(templates.InvalidTemplate) as raised:
        templates.source("tabular-classify", {})
    (problem,) = raised.value.problems
    assert problem.code == "unknown_template"
    assert "tabular-classification" in problem.hint


def test_all_problems_of_the_parameters_are_told_at_once():
    with pytest.raises(templates.InvalidTemplate) as raised:
        templates.design("tabular-regression", {"uri": 3, "tagret": "y"}, TABLE)
    paths = {problem.path for problem in raised.value.problems}
    assert {"$.params.uri", "$.params.tagret"} <= paths


@pytest.mark.parametrize(
    ("name", "change", "path"),
    [
        ("tabular-classification", {"target": "absent"}, "$.params.target"),
        ("tabular-classification", {"exclude": ["a", "absent"]}, "$.params.exclude[1]"),
        ("time-series-forecast", {"time": "absent"}, "$.params.time"),
        ("finding-triage", {"suppressed": "absent"}, "$.params.suppressed"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_those_that_are(name, change, path):
    with pytest.raises(templates.InvalidTemplate) as raised:
        design(name, **change)
    (problem,) = raised.value.problems
    assert problem.path == path
    assert CASES[name][1]["columns"][0]["name"] in problem.hint


def test_few_rows_get_a_linear_model_and_many_get_boosted_trees():
    few = design("tabular-regression", data=profile("y", "a", rows=100))
    many = design("tabular-regression", data=profile("y", "a", rows=5000))
    assert stage(few, "train").params["model"] == "Ridge"
    assert stage(many, "train").params["model"] == "HistGradientBoostingRegressor"


def test_rows_without_a_target_are_left_out_only_where_there_are_some():
    gaps = design("tabular-regression", data=profile("y", "a", y={"nulls": 3}))
    assert "known" in [each.id for each in gaps.stages]
    assert "known" not in [each.id for each in design("tabular-regression").stages]


def test_a_group_keeps_its_rows_together_in_split_and_folds_and_out_of_the_features():
    made = design("tabular-classification")
    assert stage(made, "split").params["group"] == "g"
    assert stage(made, "train").params["validation"]["group"] == "g"
    assert "g" in stage(made, "plan").params["exclude"]


@pytest.mark.parametrize(("horizon", "season"), [(1, 1), (3, 12), (13, 52), (30, 7)])
def test_no_feature_nor_baseline_of_a_forecast_sees_past_the_horizon(horizon, season):
    made = design("time-series-forecast", horizon=horizon, season=season)
    lags = stage(made, "lags").params
    assert min(lags["lags"]) >= horizon
    assert lags["horizon"] == horizon
    assert stage(made, "score").params["season"] >= horizon
    assert stage(made, "score").params["season"] % season == 0
    assert stage(made, "split").params["gap"] == horizon - 1


def test_a_forecast_sees_nothing_of_a_row_but_time_and_target():
    made = design("time-series-forecast", data=profile("week", "y", "wind"))
    assert stage(made, "series").params["columns"] == ["week", "y"]


def test_gaps_of_a_series_are_filled_from_the_past_alone():
    made = design("time-series-forecast", data=profile("week", "y", y={"nulls": 9}))
    assert stage(made, "filled").params["method"] == "forward"


def test_triage_never_shows_the_model_the_mark_it_is_to_predict():
    made = design("finding-triage")
    assert stage(made, "label").params["drop_sources"] is True
    assert "suppressed" not in stage(made, "columns").params["columns"]


def test_triage_keeps_a_file_on_one_side_and_out_of_the_features():
    made = design("finding-triage")
    assert stage(made, "split").params["group"] == "file"
    seen = stage(made, "rules").params["columns"] + stage(made, "code").params["columns"]
    assert "file" not in seen


def test_findings_without_any_column_to_learn_from_are_refused():
    with pytest.raises(templates.InvalidTemplate, match="none of the columns"):
        design("finding-triage", data=profile("file", "suppressed"))


def test_an_image_that_is_there_twice_is_on_one_side_of_the_split():
    made = design("image-classification")
    assert stage(made, "distinct").params["columns"] == ["image"]
    assert stage(made, "split").inputs == {"table": "distinct.table"}


def test_each_learning_rate_of_a_network_is_a_candidate_and_no_features_are_planned():
    made = design("image-classification", learning_rates=[0.1, 0.01], network="small-cnn")
    train = stage(made, "train")
    assert train.params["search"]["space"] == {"learning_rate": [0.1, 0.01]}
    assert (train.params["framework"], train.params["model"]) == ("torch-images", "small-cnn")
    assert set(train.inputs) == {"train"}


def test_texts_of_a_group_stay_together_in_split_and_validation():
    made = design("text-classification")
    assert stage(made, "split").params["group"] == "g"
    assert stage(made, "train").params["validation"]["group"] == "g"
    assert stage(made, "train").params["params"]["column"] == "a"


def test_rows_without_a_text_are_left_out_only_where_there_are_some():
    gaps = design("text-classification", data=profile("y", "g", "a", a={"nulls": 2}))
    assert stage(gaps, "known").params["where"] == [{"column": "a", "op": "not_null"}]
    assert "known" not in [each.id for each in design("text-classification").stages]
