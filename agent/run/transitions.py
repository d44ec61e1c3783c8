"""Owns the two tables of legal transitions, for runs and for stages; everything else is illegal.

A fanned-out stage and each of its elements follow the stage table. The diagrams in the docs are
drawn from these tables.
"""

from __future__ import annotations

from protocol import events

RUN: dict[str, dict[type[events.Event], str]] = {
    "queued": {
        events.RunStarted: "running",
        events.RunRecovered: "running",
        events.CancelRequested: "cancelling",
    },
    "running": {
        events.RunRecovered: "running",
        events.CancelRequested: "cancelling",
        events.RunSucceeded: "succeeded",
        events.RunFailed: "failed",
    },
    "cancelling": {
        events.RunStarted: "cancelling",
        events.RunRecovered: "cancelling",
        events.RunCancelled: "cancelled",
    },
    "succeeded": {events.RunResumed: "queued"},
    "failed": {events.RunResumed: "queued"},
    "cancelled": {events.RunResumed: "queued"},
}

STAGE: dict[str, dict[type[events.Event], str]] = {
    "pending": {
        events.StageStarted: "running",
        events.ApprovalRequested: "waiting",
        events.StageSkipped: "skipped",
        events.StageFailed: "failed",
        events.StageCancelled: "cancelled",
    },
    "waiting": {
        events.StageApproved: "pending",
        events.StageDenied: "pending",
        events.StageCancelled: "cancelled",
    },
    "running": {
        events.StageSucceeded: "succeeded",
        events.StageFailed: "failed",
        events.StageRetrying: "retrying",
        events.StageCancelled: "cancelled",
        events.StageDelegated: "running",
        events.StageRegistered: "running",
        events.StageShifted: "running",
        events.StageDeployed: "running",
        events.FallbackUsed: "running",
        events.RunRecovered: "pending",
    },
    "retrying": {
        events.StageStarted: "running",
        events.StageCancelled: "cancelled",
        events.RunRecovered: "pending",
    },
    "succeeded": {events.RunResumed: "pending"},
    "failed": {events.FallbackUsed: "failed", events.RunResumed: "pending"},
    "skipped": {events.RunResumed: "pending"},
    "cancelled": {events.RunResumed: "pending"},
}

ENDED = frozenset({"succeeded", "failed", "skipped", "cancelled"})
"""Of stages."""
OVER = frozenset({"succeeded", "failed", "cancelled"})
"""Of runs."""
