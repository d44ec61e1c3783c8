"""Owns which endpoint leads to which method of the desk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from agent.bus import endpoints
from agent.conductor import desk
from agent.serving import counter
from protocol import commands, serving, subjects


def doors(
    names: subjects.Subjects,
    at: desk.Desk,
    submit: endpoints.Handler,
    models: counter.Counter,
    changing: Mapping[str, endpoints.Handler],
) -> list[endpoints.Endpoint]:
    """Give every endpoint about runs and deployed models; requests go to `submit`."""
    table: list[tuple[str, str, type[msgspec.Struct], type[msgspec.Struct], Any]] = [
        (
            "request",
            names.pipeline_request,
            commands.PipelineRequest,
            commands.RunAccepted,
            submit,
        ),
        (
            "validate",
            names.pipeline("validate"),
            commands.PipelineRequest,
            commands.ValidationReport,
            at.validate,
        ),
        ("status", names.pipeline("status"), commands.RunQuery, commands.RunStatus, at.status),
        ("list", names.pipeline("list"), commands.RunListQuery, commands.RunList, at.runs),
        ("cancel", names.pipeline("cancel"), commands.Cancel, commands.RunStatus, at.cancel),
        ("resume", names.pipeline("resume"), commands.Resume, commands.RunStatus, at.resume),
        ("approve", names.pipeline("approve"), commands.Approve, commands.RunStatus, at.approve),
        (
            "catalog",
            names.stage_catalog,
            commands.CatalogQuery,
            commands.StageCatalog,
            at.catalog,
        ),
        (
            "endpoints",
            names.endpoint("list"),
            serving.EndpointQuery,
            serving.EndpointList,
            models.listed,
        ),
        (
            "rollback",
            names.endpoint("rollback"),
            serving.RollBack,
            serving.Endpoint,
            changing["rollback"],
        ),
        (
            "undeploy",
            names.endpoint("undeploy"),
            serving.Undeploy,
            serving.Endpoint,
            changing["undeploy"],
        ),
    ]
    return [endpoints.Endpoint(*row) for row in table]
