"""Owns what a SARIF run says of its tool: the rule behind a result, its level, its words."""

from __future__ import annotations

import re
from typing import Any

from stages.ingest import scans

DEFAULT_LEVEL = "warning"
_FAIL = "fail"
_NO_RULE = scans.Rule()
_NO_DRIVER = scans.Driver()
_MOST_PARTS = 10
_BRACES = re.compile(r"\{\{|\}\}|\{(\d{1,4})\}")
_LINK = re.compile(r"\[((?:[^\[\]\\]|\\.)*)\]\(\d+\)")
"""A word that leads to one of the result's related locations."""


class Rules:
    """The rules of one run, of the driver and its extensions."""

    def __init__(self, run: scans.Run) -> None:
        tool = run.tool or scans.Tool()
        self.driver = tool.driver or _NO_DRIVER
        self._extensions = tool.extensions or []
        self._invocations = run.invocations or []
        self._known: dict[str, scans.Rule] = {}
        for component in (self.driver, *self._extensions):
            for rule in component.rules or []:
                for key in filter(None, (rule.id, rule.guid)):
                    self._known.setdefault(key, rule)

    def of(self, result: scans.Result) -> tuple[str | None, scans.Rule]:
        """Give the id and the rule of a result: by index, by id, by the id it is a part of.

        An index that leads to a rule of another id is not believed: some who sort or merge logs
        forget it.
        """
        reference = result.rule or scans.Reference()
        name = result.rule_id or reference.id
        index = result.rule_index if result.rule_index is not None else reference.index
        rules = self._component(reference.tool_component).rules or []
        numbered = rules[index] if index is not None and 0 <= index < len(rules) else None
        if numbered is not None and (name is None or numbered.id in _ancestry(name)):
            return name or numbered.id, numbered
        keys = [reference.guid or "", *(_ancestry(name) if name else [])]
        rule = next((self._known[key] for key in keys if key in self._known), _NO_RULE)
        return name or rule.id, rule

    def _component(self, reference: scans.Component | None) -> scans.Driver:
        if reference is None:
            return self.driver
        if reference.index is not None and 0 <= reference.index < len(self._extensions):
            return self._extensions[reference.index]
        named = (each for each in self._extensions if _same(each, reference))
        return next(named, self.driver)

    def level(self, result: scans.Result, rule: scans.Rule) -> str:
        """Give the level as the standard resolves it, where the result has none of its own."""
        if result.level:
            return result.level
        if result.kind not in (None, _FAIL):
            return "none"
        default = rule.default_configuration
        overridden = self._override(result, rule)
        return overridden or (default.level if default else None) or DEFAULT_LEVEL

    def _override(self, result: scans.Result, rule: scans.Rule) -> str | None:
        index = result.provenance.invocation_index if result.provenance else None
        if index is None or not 0 <= index < len(self._invocations):
            return None
        for each in self._invocations[index].rule_configuration_overrides or []:
            told = each.descriptor or scans.Reference()
            if each.configuration and rule.id and told.id == rule.id:
                return each.configuration.level
        return None

    def message(self, result: scans.Result, rule: scans.Rule) -> str | None:
        """Write a result's message: its own text, or the rule's by id, with its arguments."""
        given = result.message or scans.Message()
        found, named = said(given), False
        if found is None and given.id:
            shared = self.driver.global_message_strings or {}
            strings = (rule.message_strings or {}).get(given.id) or shared.get(given.id)
            found, named = said(strings), True
        if found is None:
            return None
        if named or given.arguments:
            found = _filled(found, given.arguments or [])
        return _LINK.sub(r"\1", found)


def said(message: scans.Message | None) -> str | None:
    """Give the words of a message: plain ones if there are some."""
    return (message.text or message.markdown) if message else None


def _same(driver: scans.Driver, reference: scans.Component) -> bool:
    if reference.guid:
        return driver.guid == reference.guid
    return bool(reference.name) and driver.name == reference.name


def _ancestry(name: str) -> list[str]:
    """Give an id and those that it is a part of: `CA1000/1` is about the rule `CA1000`."""
    found = [name]
    while "/" in found[-1] and len(found) < _MOST_PARTS:
        found.append(found[-1].rpartition("/")[0])
    return found


def _filled(text: str, arguments: list[Any]) -> str:
    def one(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0][0]
        place = int(found[1])
        return str(arguments[place]) if place < len(arguments) else found[0]

    return _BRACES.sub(one, text)
