# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2v.model.errors import ImageError, ImageIncompleteError, MigrationBusyError, P2VError
from p2v.model.problem import RemoteError, error_of, problem_document


def test_an_error_survives_the_way_through_json():
    error = MigrationBusyError(id="m", agent="web02", seconds=9)
    document = json.loads(json.dumps(problem_document(error)))
    back = error_of(document)
    assert type(back) is MigrationBusyError
    assert (str(back), back.fields, back.way_out) == (str(error), error.fields, error.way_out)
    assert back.exit_code == error.exit_code


def test_a_document_says_what_where_and_what_to_do():
    document = problem_document(ImageError(path=Path("/srv/x.vhdx"), problem="it is short"))
    assert document["type"] == "bad-image"
    assert document["detail"] == "/srv/x.vhdx: it is short."
    assert document["title"].endswith(".") and "\n" not in document["title"]
    assert document["fields"] == {"path": "/srv/x.vhdx", "problem": "it is short"}


def test_a_subclass_is_told_by_its_own_code():
    assert type(error_of(problem_document(ImageIncompleteError(path="x")))) is ImageIncompleteError


def test_codes_name_one_class_each():
    codes: dict[str, type[P2VError]] = {}
    todo = list(P2VError.__subclasses__())
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        if cls.__module__.startswith("p2v.model.errors"):
            assert codes.setdefault(cls.code, cls) is cls, f"{cls} and {codes[cls.code]}"


@pytest.mark.parametrize(
    "document",
    [
        {"type": "from-the-future", "detail": "The moon is full.", "hint": "Wait."},
        {"type": "from-the-future", "detail": "The moon is full.", "fields": "no mapping"},
    ],
)
def test_an_unknown_code_keeps_its_words(document):
    error = error_of(document)
    assert type(error) is RemoteError and str(error) == "The moon is full."
    assert error.way_out == document.get("hint", "")


@pytest.mark.parametrize("document", [{}, {"type": 7}, {"type": "usage"}])
def test_a_document_without_words_is_an_error_all_the_same(document):
    assert str(error_of(document)) == "the converter gave no reason"


def test_fields_that_are_missing_do_not_break_the_hint():
    error = error_of({"type": "migration-busy", "detail": "Busy.", "fields": {}})
    assert isinstance(error, MigrationBusyError)
    assert isinstance(error.way_out, str)
