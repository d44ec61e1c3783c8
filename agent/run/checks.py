"""Owns the checks of a pipeline before it is accepted: every problem is found, not the first."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping

from agent.run import errors, graph, shapes, wiring
from protocol import pipelines, problems

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RESERVED = frozenset({"run"})
"""The scope of a run's own events."""
_HINTS, _NAMES, _LETTERS = 5, 200, 64
"""So many guesses, each among so many names of at most this length: comparing them is slow."""
_LONGEST = 1_000
"""Of what a problem says: names come from the request, and may be told more than once."""


def check(
    pipeline: pipelines.Pipeline, known: Mapping[str, shapes.Shape], *, max_stages: int
) -> wiring.Wired:
    """Look everything up and wire it; raise InvalidPipeline with all problems."""
    if len(pipeline.stages) > max_stages:
        message = f"{len(pipeline.stages)} stages are more than the {max_stages} that are allowed"
        raise errors.InvalidPipeline([_problem("payload_too_large", "$.pipeline.stages", message)])
    checker = _Checker(pipeline, known)
    checker.run()
    if checker.problems:
        raise errors.InvalidPipeline(checker.problems)
    return checker.wired


def order_graph(wired: wiring.Wired) -> list[list[int]]:
    """Give the successors of each stage `i` and of its result `n + i`, fallbacks included.

    What depends on a stage waits for its result; the result of a stage with a fallback also waits
    for the result of the fallback.
    """
    count = len(wired.stages)
    successors: list[list[int]] = [[count + i] for i in range(count)]
    successors += wired.dependents()
    for index, fallback in enumerate(wired.fallbacks):
        if fallback is not None:
            successors[index].append(fallback)
            successors[count + fallback].append(count + index)
    return successors


def _problem(
    code: problems.Code, path: str, message: str, hint: str | None = None
) -> problems.Problem:
    short = None if hint is None else hint[:_LONGEST]
    return problems.Problem(code=code, message=message[:_LONGEST], path=path, hint=short)


class _Checker:
    def __init__(self, pipeline: pipelines.Pipeline, known: Mapping[str, shapes.Shape]) -> None:
        self.known = known
        self.problems: list[problems.Problem] = []
        self.wired = wiring.Wired(tuple(pipeline.stages))
        self.hints = _HINTS

    def run(self) -> None:
        for index, stage in enumerate(self.wired.stages):
            self._identity(index, stage)
            self._shape(index, stage)
        for index, stage in enumerate(self.wired.stages):
            self._inputs(index, stage)
            self._needs(index, stage)
            self._conditions(index, stage)
            self._for_each(index, stage)
            self._required(index, stage)
            self._fallback(index, stage)
        self._fallback_ports()
        self._cycles()

    def _add(
        self,
        code: problems.Code,
        place: tuple[int, str],
        message: str,
        hint: str | None = None,
    ) -> None:
        """Note a problem; raise InvalidPipeline once there are as many as are told."""
        index, rest = place
        self.problems.append(_problem(code, f"$.pipeline.stages[{index}]{rest}", message, hint))
        if len(self.problems) >= problems.MAX_PROBLEMS:
            raise errors.InvalidPipeline(self.problems)

    def _guess(self, word: str, among: Iterable[str]) -> str | None:
        if self.hints <= 0 or len(word) > _LETTERS:
            return None
        self.hints -= 1
        short = (name for name in among if len(name) <= _LETTERS)
        close = difflib.get_close_matches(word, list(itertools.islice(short, _NAMES)), n=1)
        return f"did you mean {close[0]!r}?" if close else None

    def _identity(self, index: int, stage: pipelines.Stage) -> None:
        place = (index, ".id")
        if not _ID.fullmatch(stage.id):
            rule = "use 1 to 64 of A-Z a-z 0-9 _ -"
            self._add("invalid_field", place, f"stage id {stage.id!r} is not subject-safe", rule)
        elif stage.id in _RESERVED:
            self._add("invalid_field", place, f"stage id {stage.id!r} is reserved")
        if self.wired.ids.setdefault(stage.id, index) != index:
            first = self.wired.ids[stage.id]
            self._add("duplicate_id", place, f"stages[{first}] is named {stage.id!r} too")

    def _shape(self, index: int, stage: pipelines.Stage) -> None:
        shape = self.known.get(stage.use)
        self.wired.shapes[index] = shape
        if shape is None:
            hint = self._guess(stage.use, self.known)
            self._add("unknown_stage", (index, ".use"), f"no stage is called {stage.use!r}", hint)

    def _stage_of(self, name: str, place: tuple[int, str]) -> int | None:
        found = self.wired.ids.get(name)
        if found is None:
            hint = self._guess(name, self.wired.ids)
            self._add("unknown_input", place, f"the pipeline has no stage {name!r}", hint)
        return found

    def _inputs(self, index: int, stage: pipelines.Stage) -> None:
        for name, source in stage.inputs.items():
            place = (index, f".inputs.{name}")
            upstream = self._stage_of(source.partition(".")[0], place)
            if upstream is not None:
                self.wired.depend(index, upstream)
            shape = self.wired.shapes[index]
            if shape is None:
                continue
            port = next((p for p in shape.inputs if p.name == name), None)
            if port is None:
                hint = self._guess(name, (p.name for p in shape.inputs))
                self._add("unknown_input", place, f"{stage.use} has no input {name!r}", hint)
            elif upstream is not None:
                self._bind(index, port, upstream, source)

    def _bind(self, index: int, port: shapes.Port, upstream: int, source: str) -> None:
        place = (index, f".inputs.{port.name}")
        output = self._output(upstream, source, port.kind, place)
        if output is None:
            return
        if output.kind != port.kind:
            message = f"input {port.name!r} takes {port.kind}, but {source!r} is {output.kind}"
            self._add("type_mismatch", place, message)
        elif self.wired.listed(upstream, output) and not port.many:
            message = f"{source!r} is a list of {output.kind}, input {port.name!r} takes one"
            hint = "fan this stage out over it with for_each, or take it in a stage that collects"
            self._add("type_mismatch", place, message, hint)
        else:
            self.wired.bindings[index].append(
                shapes.Binding(port.name, port.many, port.optional, upstream, output.name)
            )

    def _output(
        self, upstream: int, source: str, kind: str | None, place: tuple[int, str]
    ) -> shapes.Port | None:
        """Find the output that a source means; a bare stage means its only fitting one.

        Of several that fit, the one named as its kind is meant: `table` beside `quarantined`.
        """
        shape = self.wired.shapes[upstream]
        if shape is None:
            return None
        stage, _, name = source.partition(".")
        if name:
            named = next((p for p in shape.outputs if p.name == name), None)
            if named is None:
                hint = self._guess(name, (p.name for p in shape.outputs))
                self._add("unknown_input", place, f"stage {stage!r} has no output {name!r}", hint)
            return named
        fitting = [p for p in shape.outputs if kind is None or p.kind == kind]
        main = [p for p in fitting if p.name == p.kind] if len(fitting) > 1 else fitting
        if len(main) == 1:
            return main[0]
        offered = ", ".join(f"{stage}.{p.name} ({p.kind})" for p in shape.outputs) or "nothing"
        many = "several outputs" if fitting else "no output"
        message = f"stage {stage!r} has {many} that fit{'' if fitting else 's'} here"
        code: problems.Code = "unknown_input" if fitting else "type_mismatch"
        self._add(code, place, message, f"it offers {offered}")
        return None

    def _needs(self, index: int, stage: pipelines.Stage) -> None:
        for number, name in enumerate(stage.needs):
            upstream = self._stage_of(name, (index, f".needs[{number}]"))
            if upstream is not None:
                self.wired.depend(index, upstream)

    def _conditions(self, index: int, stage: pipelines.Stage) -> None:
        several = isinstance(stage.when, list)
        for number, condition in enumerate(wiring.conditions(stage)):
            name, _, metric = condition.metric.partition(".")
            place = (index, f".when[{number}].metric" if several else ".when.metric")
            upstream = self._stage_of(name, place)
            if upstream is not None:
                self.wired.depend(index, upstream)
                bound = shapes.Bound(upstream, metric, condition.op, condition.value)
                self.wired.conditions[index].append(bound)

    def _for_each(self, index: int, stage: pipelines.Stage) -> None:
        each = stage.for_each
        if each is None:
            return
        place = (index, ".for_each.items")
        upstream = self._stage_of(each.items.partition(".")[0], place)
        shape = self.wired.shapes[index]
        if upstream is None:
            return
        self.wired.depend(index, upstream)
        if each.into in stage.inputs:
            message = f"{each.into!r} is an input already, the element cannot go there too"
            self._add("invalid_field", (index, ".for_each.as"), message)
        if shape is None or self.wired.shapes[upstream] is None:
            return
        into = next((p for p in shape.inputs if p.name == each.into), None)
        kind = into.kind if into else None
        if not self.wired.fanned(upstream):
            kind = kind if into and self.wired.has_list(upstream) else "list"
        output = self._output(upstream, each.items, kind, place)
        if output is not None:
            self._element(index, into, upstream, output)

    def _element(
        self, index: int, into: shapes.Port | None, upstream: int, output: shapes.Port
    ) -> None:
        """Elements of a `list` go to a parameter, those of a fanned-out port to an input."""
        each = self.wired.stages[index].for_each
        assert each is not None
        place = (index, ".for_each.items")
        if self.wired.listed(upstream, output):
            if into is None or into.kind != output.kind:
                takes = f"takes {into.kind}" if into else "is not an input"
                message = f"the elements are {output.kind}, but {each.into!r} {takes}"
                self._add("type_mismatch", (index, ".for_each.as"), message)
                return
        elif output.kind != "list":
            message = f"{each.items!r} is one {output.kind}, not a list"
            self._add("type_mismatch", place, message)
            return
        elif into is not None:
            message = f"the elements are values, but {each.into!r} is an input, not a parameter"
            self._add("type_mismatch", (index, ".for_each.as"), message)
            return
        self.wired.items[index] = shapes.Binding(
            each.into, many=False, optional=False, source=upstream, source_port=output.name
        )

    def _required(self, index: int, stage: pipelines.Stage) -> None:
        shape = self.wired.shapes[index]
        into = stage.for_each.into if stage.for_each else None
        for port in shape.inputs if shape else ():
            if not port.optional and port.name not in stage.inputs and port.name != into:
                message = f"{stage.use} needs its input {port.name!r} ({port.kind})"
                self._add("unknown_input", (index, f".inputs.{port.name}"), message)

    def _fallback(self, index: int, stage: pipelines.Stage) -> None:
        if isinstance(stage.on_failure, pipelines.Fallback):
            place = (index, ".on_failure.fallback")
            self.wired.fallbacks[index] = self._stage_of(stage.on_failure.fallback, place)

    def _fallback_ports(self) -> None:
        """A fallback must offer every output that is taken from the stage it stands in for."""
        for taken, port, by in self.wired.taken():
            fallback = self.wired.fallbacks[taken]
            shape = None if fallback is None else self.wired.shapes[fallback]
            if fallback is None or shape is None:
                continue
            mine = self.wired.output(taken, port)
            theirs = next((p for p in shape.outputs if p.name == port), None)
            same = (
                mine is not None
                and theirs is not None
                and mine.kind == theirs.kind
                and self.wired.listed(taken, mine) == self.wired.listed(fallback, theirs)
            )
            if not same:
                name = self.wired.stages[fallback].id
                message = (
                    f"{name!r} cannot stand in: it has no such output {port!r}, which {by!r} takes"
                )
                self._add("type_mismatch", (taken, ".on_failure.fallback"), message)

    def _cycles(self) -> None:
        count = len(self.wired.stages)
        told: set[int] = set()
        for cycle in graph.cycles(order_graph(self.wired)):
            stages = {node % count for node in cycle}
            if stages & told:
                continue  # a stage and its result are two nodes, and may lie on two circles
            told |= stages
            names = list(dict.fromkeys(self.wired.stages[node % count].id for node in cycle))
            circle = " → ".join([*names, names[0]])
            first = min(stages)
            self._add("cycle", (first, ""), f"the stages wait for each other: {circle}")
