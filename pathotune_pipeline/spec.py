"""Spec: the base of every settings object. Frozen, strict about names, and readable as flags, YAML and a record.

A Spec stands beside the code it steers (`TileSpec` in `tiles/grid.py`). The command line, the YAML files, the
flow parameters and the run record are all made from these models, so there is no second list of settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.registry import nearest


def setting(
    default: Any,
    help: str,
    *,
    hashed: bool = True,
    flag: str | None = None,
    aliases: tuple[str, ...] = (),
    rest: str | None = None,
    **limits: Any,
) -> Any:
    """A field of a Spec.

    Args:
        default: its value when nothing is said; ... for one that must be given.
        help: one sentence: what it does, in which unit.
        hashed: whether results depend on it, so that it enters the fingerprint.
        flag: its command-line name, when not the field's own.
        aliases: further command-line names.
        rest: the field beside it that takes what its flag is given after the first time.
        limits: pydantic's `ge`, `gt`, `le`, `lt`, `min_length`, `pattern`.
    """
    extra: dict[str, Any] = {"hashed": hashed, "flag": flag, "aliases": list(aliases), "rest": rest}
    return Field(default, description=help, json_schema_extra=extra, **limits)


class Spec(BaseModel):
    """A frozen group of settings. An unknown name is an error that offers the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Build the Spec from plain values.

        Args:
            values: nested names and values, as YAML gives them.
            where: where they come from, for the error message.

        Raises:
            SpecError: an unknown name or a value that is not allowed, one line for each.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            lines = [_explain(cls, problem) for problem in error.errors()]
            prefix = f"{where}: " if where else ""
            raise SpecError(prefix + "; ".join(lines)) from None

    def with_values(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again."""
        return type(self).parse({**self.model_dump(), **changes})


def is_hashed(info: FieldInfo) -> bool:
    """Whether results depend on this field."""
    extra = info.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("hashed") is False)


def hashed_values(spec: BaseModel) -> dict[str, Any]:
    """The fields that decide the result and differ from their defaults, nested ones included."""
    values: dict[str, Any] = {}
    for name, info in type(spec).model_fields.items():
        if not is_hashed(info):
            continue
        value = getattr(spec, name)
        if isinstance(value, BaseModel):
            nested = hashed_values(value)
            if nested:
                values[name] = nested
        elif value != info.get_default(call_default_factory=True):
            values[name] = spec.model_dump(mode="json", include={name})[name]
    return values


def _model_at(model: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel] | None:
    for part in path:
        info = model.model_fields.get(str(part))
        inner = info.annotation if info else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return None
        model = inner
    return model


def _explain(model: type[BaseModel], problem: Any) -> str:
    path = problem["loc"]
    dotted = ".".join(str(part) for part in path)
    if problem["type"] == "extra_forbidden":
        owner = _model_at(model, path[:-1])
        known = list(owner.model_fields) if owner else []
        return f"there is no setting {dotted!r}.{nearest(str(path[-1]), known)} Known here: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{dotted} must be given"
    own = problem["type"] == "value_error"  # a check of this package
    said = str(problem["ctx"]["error"]) if own else problem["msg"]
    found = "" if own and said.endswith(".") else f", found {problem['input']!r}"  # a whole sentence says it itself
    return f"{dotted}: {said}{found}" if dotted else f"{said}{found}"


def load_yaml(path: Path, where: str) -> Any:
    """What a file of settings holds, not looked at yet.

    Args:
        path: the file.
        where: the flag and the path, for messages.

    Raises:
        SpecError: it cannot be read, or is not YAML.
    """
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{where}: cannot be read ({error.strerror or error}). Check the path.") from None
    except UnicodeDecodeError:
        raise SpecError(f"{where}: is no text. Give a YAML file.") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{where}: is not YAML ({' '.join(str(error).split())}). Mend it.") from None
