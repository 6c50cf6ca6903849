"""Runtime type checks of the tests: shapes by jaxtyping, all other annotations by beartype alone.

jaxtyping wraps every function of the package, binds its arguments and checks them twice, so that names of axes mean the
same in arguments and result. A function without shapes has no such names: beartype checks each annotation of it once.
"""

import inspect
from typing import Any

import jaxtyping
from beartype import beartype

_with_shapes = jaxtyping.jaxtyped


def checked(fn: Any, typechecker: Any) -> Any:
    """A function whose calls are checked, or a dataclass whose fields are once its own checks have passed."""
    is_plain = inspect.isfunction(fn) and not any(has_shape(one) for one in fn.__annotations__.values())
    return beartype(fn) if is_plain else _with_shapes(fn, typechecker=typechecker)


def has_shape(annotation: Any) -> bool:
    """Whether an annotation has a shape in it, or text in place of a type, which may stand for one."""
    if isinstance(annotation, str) or (inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray)):
        return True
    return "ForwardRef" in repr(annotation) or any(has_shape(one) for one in getattr(annotation, "__args__", ()))


def install() -> None:
    """Have the import hook of `--jaxtyping-packages` use `checked`; to be called before the package is imported."""
    jaxtyping.jaxtyped = lambda *, typechecker: lambda fn: checked(fn, typechecker)
