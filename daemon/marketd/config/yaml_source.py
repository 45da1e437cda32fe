"""YAML as plain data with the place of every key, read from parse events.

Stricter than YAML: one document, text keys, no duplicate keys, no anchors, aliases, merge keys or tags.
Plain scalars follow YAML 1.2's core schema, so `NO` and `00:30` stay text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from marketd.config.faults import Fault, KeyPath, Place
from marketd.config.substitution import Substitution, Unfilled

_INT = re.compile(r"[-+]?[0-9]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_DEEPEST = 16


@dataclass(slots=True)
class Source:
    """What a file says: `data`, where each key stands, and the raw text of what was substituted."""

    data: Any = None
    places: dict[KeyPath, Place] = field(default_factory=dict)
    written: dict[KeyPath, str] = field(default_factory=dict)
    filled: set[str] = field(default_factory=set)  #: values that came from a substitution
    unread: set[KeyPath] = field(default_factory=set)  #: None stands there for what could not be read
    faults: list[Fault] = field(default_factory=list)


def read(text: str, substitution: Substitution) -> Source:
    """Reads YAML text. Never raises: what is wrong is in `faults`, and broken values are None."""
    source = Source()
    try:
        _Reader(source, substitution, yaml.parse(text, Loader=yaml.BaseLoader)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = "; use spaces, not tabs" if "'\\t'" in (error.problem or "") else ""
        reason = f"not readable as YAML: {error.problem or error.context}{hint}"
        source.faults.append(Fault((), reason, _place(mark) if mark else (1, 1)))
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = (before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1)
        source.faults.append(Fault((), f"character U+{ord(text[error.position]):04X} is not allowed", place))
    return source


def _place(mark: Any) -> Place:
    return mark.line + 1, mark.column + 1


class _Reader:
    """Recursive descent over YAML events."""

    def __init__(self, source: Source, substitution: Substitution, events: Iterator[Any]) -> None:
        self._source = source
        self._substitution = substitution
        self._events = events

    def document(self) -> None:
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
            elif isinstance(event, yaml.NodeEvent) and documents == 1:
                self._source.data = self._node(event, ())
            elif isinstance(event, yaml.NodeEvent):
                self._fault((), "a second document (---) is not expected", event)
                return

    def _fault(self, path: KeyPath, reason: str, event: Any) -> None:
        self._source.faults.append(Fault(path, reason, _place(event.start_mark)))

    def _node(self, event: Any, path: KeyPath) -> Any:
        self._source.places.setdefault(path, _place(event.start_mark))
        if isinstance(event, yaml.AliasEvent):
            self._source.unread.add(path)
            self._fault(path, f"aliases (*{event.anchor}) are not supported; write the value out", event)
            return None
        if event.anchor is not None:
            self._fault(path, f"anchors (&{event.anchor}) are not supported; remove it", event)
        if event.tag not in (None, "!"):
            self._fault(path, "tags (!) are not supported; a text that starts with ! needs quotes", event)
        if len(path) > _DEEPEST:
            self._source.unread.add(path)
            self._fault(path[:_DEEPEST], "nested too deeply", event)
            self._skip(event)
            return None
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        return self._scalar(event, path)

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            if not isinstance(event, yaml.ScalarEvent):
                self._fault(path, "a key must be plain text", event)
                self._skip(event)
                self._skip(next(self._events))
                continue
            key = event.value
            below = (*path, key)
            if key == "<<" and event.implicit[0]:
                self._fault(below, "merge keys (<<) are not supported; write the settings out", event)
                self._skip(next(self._events))
                continue
            if key in result:
                line = self._source.places[below][0]
                self._fault(below, f"duplicate key (first at line {line})", event)
                self._skip(next(self._events))
                continue
            self._source.places[below] = _place(event.start_mark)
            result[key] = self._node(next(self._events), below)
        return result

    def _sequence(self, path: KeyPath) -> list[Any]:
        result: list[Any] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            result.append(self._node(event, (*path, len(result))))
        return result

    def _skip(self, event: Any) -> None:
        """Passes over the rest of the node that `event` starts."""
        depth = 0
        while True:
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth == 0:
                return
            event = next(self._events)

    def _scalar(self, event: Any, path: KeyPath) -> Any:
        text: str = event.value
        if "$" in text:
            try:
                filled = self._substitution.fill(text)
            except Unfilled as error:
                self._source.unread.add(path)
                self._fault(path, str(error), event)
                return None
            if "${" in text:
                self._source.written[path] = text
                self._source.filled.add(filled)
            return filled
        return _resolved(text) if event.implicit[0] else text


def _resolved(text: str) -> Any:
    """What an unquoted scalar means."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text) and len(text) < 20:
        return int(text)
    if _FLOAT.fullmatch(text) and len(text) < 40:
        return float(text)
    return text
