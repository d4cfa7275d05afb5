"""Griffe extension that converts reStructuredText markup in docstrings to Markdown.

Docstrings follow Google's style, with Sphinx roles such as ``:class:`.Query``` and literal blocks
that begin with two colons.
"""

import re

import griffe

ROLE = re.compile(r':\w+:`~?\.?(?:\w+\.)*?(\w+(?:\.\w+)?)`')
LITERAL = re.compile(r'(?m)^ *::$|(?<=\S:):$')


class Roles(griffe.Extension):
    """Rewrites every docstring."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring:
            text = LITERAL.sub('', obj.docstring.value)
            obj.docstring.value = ROLE.sub(r'`\1`', text)
