"""Extension of griffe: docstrings as the site's reference shows them.

Examples at the end of a docstring become a section of examples, as Markdown would take `>>>` for a quotation, and roles
of Sphinx (``:func:`name```) become plain code.
"""

import re

import griffe

_EXAMPLE = re.compile(r"\n\n>>> .*\Z", flags=re.DOTALL)
_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?([^`]+)`")


def shown(docstring: str) -> str:
    r"""Google-style docstring with a section of examples.

    >>> shown("Adds one.\n\n>>> add(1)\n2")
    'Adds one.\n\nExamples:\n    >>> add(1)\n    2'
    >>> shown("See :func:`~speechssl.load`.")
    'See `speechssl.load`.'
    """
    text = _ROLE.sub(r"`\1`", docstring)
    found = _EXAMPLE.search(text)
    if found is None:
        return text
    lines = found[0].strip().splitlines()
    return text[: found.start()] + "\n\nExamples:\n" + "\n".join(f"    {line}".rstrip() for line in lines)


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Called by griffe per module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = shown(obj.docstring.value)
