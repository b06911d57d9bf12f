"""What griffe cannot read off kopt's source: which names are public, and `Example:` sections."""

import ast

import griffe

_LAZY = (
    "_HOMES",
    "_LOOKING",
    "_ATTRIBUTES",
)  # dicts of the names that a package loads on first use, by where they live
# What Keras calls, or what does for a wrapper what it does for any model: known from there.
_FROM_KERAS = {
    "apply",
    "call",
    "compile",
    "compute_loss",
    "compute_mask",
    "compute_metrics",
    "evaluate",
    "finalize_variable_values",
    "fit",
    "from_config",
    "get_config",
    "history",
    "load_weights",
    "make_train_function",
    "metrics",
    "on_epoch_begin",
    "on_epoch_end",
    "on_test_begin",
    "on_test_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_train_begin",
    "on_train_end",
    "output_names",
    "predict",
    "predict_on_batch",
    "reset_metrics",
    "save_weights",
    "set_model",
    "summary",
    "test_on_batch",
    "train_on_batch",
}


class KoptExtension(griffe.Extension):
    """Makes every name of a room's `__all__` an alias of what it stands for, and lets examples be parsed as such."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: object) -> None:
        """Name the sections and add the aliases, once all of the package is loaded."""
        _prepare(pkg)
        for room in (*pkg.modules.values(), pkg):
            homes = {name: f"{home}.{name}" for lazy in _LAZY for name, home in _literal(room, lazy).items()}
            hidden = {name: home for name, home in room.imports.items() if name in room.modules}
            for name, home in {**homes, **hidden}.items():
                room.members[name] = griffe.Alias(name, _found(pkg, home), parent=room)
            if homes:
                room.exports = [
                    *(name for name in room.exports or () if isinstance(name, str) and name in room.imports),
                    *homes,
                ]


def _literal(module: griffe.Module, name: str) -> dict[str, str]:
    member = module.members.get(name)
    return ast.literal_eval(str(member.value)) if isinstance(member, griffe.Attribute) else {}


def _found(package: griffe.Module, path: str) -> griffe.Object | griffe.Alias:
    found = package
    for name in path.split(".")[1:]:
        found = found.members[name]
    return found


def _prepare(found: griffe.Object) -> None:
    """Name the section as griffe does, which reads prompts in no other, and leave out what Keras documents."""
    if found.docstring:
        found.docstring.value = found.docstring.value.replace("\nExample:\n", "\nExamples:\n")
    for name, member in list(found.members.items()):
        if found.is_class and name in _FROM_KERAS:
            del found.members[name]
        elif not member.is_alias:
            _prepare(member)
