# SPDX-License-Identifier: GPL-3.0-or-later
"""Every verb of both commands describes itself, and every word that it takes."""

import argparse
from importlib import import_module

import pytest

from agent.cli import main as agent
from p2v.cli import main as p2v
from p2v.model.command import Parser, _module

VERBS = [("p2v", "p2v.cli", verb) for verb in p2v.VERBS]
VERBS += [("p2v-agent", "agent.cli", verb) for verb in agent.VERBS]


def parsers(parser):
    """Yield the parser and those below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


@pytest.mark.parametrize(("prog", "package", "verb"), VERBS)
def test_a_verb_and_all_that_it_takes_is_described(prog, package, verb):
    top = Parser(prog=prog)
    import_module(f"{package}.{_module(verb)}").register(top.add_subparsers())
    found = [each for each in parsers(top) if each is not top]
    assert found
    for parser in found:
        assert parser.description, parser.prog
        parser.format_help()
        bare = [action.dest for action in parser._actions if not action.help]
        assert not [name for name in bare if name != "action"], parser.prog
