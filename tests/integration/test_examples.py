"""Every public name has an example in its docstring, and the example runs and shows what it says."""

import ast
import doctest
import inspect
import itertools
from pathlib import Path

import pytest

import kopt

pytestmark = pytest.mark.long

_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public():
    """Return every public name with its module, once: of `kopt`, its rooms, and the modules that rooms make public."""
    found, modules, seen = {}, [(kopt, "kopt")], set()
    for module, prefix in modules:
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.ismodule(value):
                modules.append((value, f"{prefix}.{name}"))
            elif id(value) not in seen:
                seen.add(id(value))
                found[f"{prefix}.{name}"] = (module, name, value)
    return found


def docstring(module, name, value):
    """Return the docstring of a class or function; of a value, the text below its assignment."""
    if callable(value):
        return inspect.getdoc(value) or ""
    for path in sorted(Path(module.__file__).parent.rglob("*.py")):
        text = path.read_text()
        for statement, following in itertools.pairwise(ast.parse(text).body if f"\n{name}" in text else ()):
            targets = getattr(statement, "targets", [getattr(statement, "target", None)])
            if any(getattr(target, "id", None) == name for target in targets) and isinstance(following, ast.Expr):
                return inspect.cleandoc(following.value.value)
    return ""


def docstrings(module, name, value):
    """Yield the name's docstring, and those of the methods of its own that have examples."""
    yield name, docstring(module, name, value)
    for method, member in vars(value).items() if inspect.isclass(value) else ():
        text = inspect.getdoc(member) if callable(member) or isinstance(member, classmethod) else None
        if not method.startswith("_") and ">>>" in (text or ""):
            yield f"{name}.{method}", text


PUBLIC = public()


@pytest.mark.slow
@pytest.mark.xdist_group("examples")  # what they start from is made once
@pytest.mark.parametrize("path", sorted(PUBLIC))
def test_the_example_shows_what_it_says(path, scope):
    for name, text in docstrings(*PUBLIC[path]):
        example = doctest.DocTestParser().get_doctest(text, dict(scope), name, path, 0)
        ran = [shown.want for shown in example.examples if not shown.options.get(doctest.SKIP)]
        assert any(ran), f"{path} has no example that shows something"
        problems = []
        doctest.DocTestRunner(optionflags=_FLAGS).run(example, out=problems.append)
        assert not problems, "".join(problems)
