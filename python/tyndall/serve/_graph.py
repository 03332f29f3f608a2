"""Applications as graphs: deployments with names of their own, and handles in place of nested applications.

A walk begins at the ingress and looks through what each deployment is made from. It is a pickle that finds
applications, so it finds them at any depth and in any object that can be pickled.
"""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from . import _fates, _models, _options
from .config import AutoscalingPolicy, LoggingConfig
from .deployment import Application, Deployment
from .exceptions import RayServeException

logger = logging.getLogger("tyndall.serve")

INGRESS: Final = "__serve_ingress_app__"
"""The attribute that `@serve.ingress` gives a class."""

MakeHandle = Callable[[str, str], Any]
"""Of a deployment's and its application's name makes a handle."""


@dataclass(frozen=True)
class Code:
    """What a replica of a deployment runs."""

    func_or_class: Callable[..., Any]
    init_args: tuple[Any, ...]
    """With handles in place of applications."""
    init_kwargs: dict[str, Any]
    options: dict[str, Any]
    """Those that were set, checked, by the names of `@serve.deployment`."""


@dataclass(frozen=True)
class Built:
    """An application whose deployments have their names."""

    name: str
    application: Application
    """What it was built from; replicas walk it again."""
    route_prefix: str | None
    described: dict[str, Any]
    """As `role describe` prints it: `ingress`, and `deployments` with their options, callers before callees.

    Of an application of models it is `application`, which is what a config file says in its place.
    """
    code: dict[str, Code]
    """By deployment, in the same order."""
    external_scaler_enabled: bool = False
    logging_config: dict[str, Any] | None = None
    """Fields that were set."""

    @property
    def ingress(self) -> str:
        if isinstance(self.application, _models.ModelApplication):
            return self.application.ingress
        name: str = self.described["ingress"]
        return name


def build(
    app: Application,
    name: str = "default",
    *,
    route_prefix: str | None = "/",
    args: dict[str, Any] | None = None,
    logging_config: Any = None,
    external_scaler_enabled: bool = False,
    make_handle: MakeHandle | None = None,
) -> Built:
    """Walks the graph and checks that all of it can be carried out.

    Raises ValueError with the deployment, the cause and the cure.
    """
    app = _models.native(app) if isinstance(app, Application) else app
    if isinstance(app, _models.ModelApplication):
        nodes, described = [], app.described
    else:
        nodes = _walk(app, name, make_handle)
        for node in nodes:
            _carried_out(node)
        _one_ingress(nodes)
        described = _described(nodes, args or {})
    if logging_config is not None:
        logging_config = LoggingConfig.parse("logging_config", logging_config).to_dict(only_set=True)
    return Built(
        name=name,
        application=app,
        route_prefix=route_prefix,
        described=described,
        code={node.name: node.code for node in nodes},
        external_scaler_enabled=external_scaler_enabled,
        logging_config=logging_config,
    )


def describe(app: Application, args: dict[str, Any] | None = None, policies: Iterable[str] = ()) -> dict[str, Any]:
    """What `role describe` prints of an application that was built with these arguments.

    Raises ValueError where one of the autoscaling policies that a config file names is not there.
    """
    built = build(app, args=args)
    scaling = [code.options.get("autoscaling_config") for code in built.code.values()]
    own = {one.get_policy().policy_function for one in scaling if one is not None}
    for path in policies:
        if path not in own:
            resolvable(AutoscalingPolicy(policy_function=path))
    return built.described


def code_of(app: Application, name: str = "default", make_handle: MakeHandle | None = None) -> dict[str, Code]:
    """What replicas run, by deployment, callers before callees; nothing is said of options without effect."""
    return {node.name: node.code for node in _walk(app, name, make_handle)}


@dataclass
class _Node:
    """A deployment of the graph."""

    name: str
    code: Code
    calls: list[str]


@dataclass
class _Walk:
    app_name: str
    make_handle: MakeHandle
    names: dict[Application, str | None] = field(default_factory=dict)
    """By application, which is one only with itself; None while it is looked through."""
    nodes: list[_Node] = field(default_factory=list)
    """Callees before their callers."""

    def visit(self, app: Application) -> str:
        """The name of an application's deployment; looks through it if that was not done yet."""
        if isinstance(_models.native(app), _models.ModelApplication):
            raise ValueError(
                f"{app!r} is served without Python: it runs neither in local testing mode nor inside another "
                "application\nrun it by itself, and get a handle of it with serve.get_app_handle"
            )
        known = self.names.get(app, "")
        if known:
            return known
        if known is None:
            raise ValueError(
                f"the deployment {app._bound.name!r} is made from itself\n"
                "take the application out of what is in its own `bind`"
            )
        self.names[app] = None
        bound = app._bound
        calls: list[str] = []
        args, kwargs = self._replaced(bound, calls)
        name = self._unique(bound.name)
        self.names[app] = name
        code = Code(bound.func_or_class, args, kwargs, {**bound._options, "name": name})
        self.nodes.append(_Node(name, code, calls))
        return name

    def _unique(self, given: str) -> str:
        taken = {node.name for node in self.nodes}
        name, n = given, 0
        while name in taken:
            n += 1
            name = f"{given}_{n}"
        if n:
            logger.warning(f"There are multiple deployments with the same name {given!r}. Renaming one to {name!r}.")
        return name

    def _replaced(self, bound: Deployment, calls: list[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What a deployment is made from, with handles in place of applications."""
        found: list[Application] = []
        init = (bound.init_args, bound.init_kwargs)
        pickled = _pickled(init, found, bound.name)
        handles = []
        for app in found:
            name = self.visit(app)
            if name not in calls:
                calls.append(name)
            handles.append(self.make_handle(name, self.app_name))
        # Without applications it stays the very same: nothing is copied that needs not be.
        return _unpickled(pickled, handles) if found else init


def _walk(app: Application, app_name: str, make_handle: MakeHandle | None) -> list[_Node]:
    if not isinstance(app, Application):
        raise TypeError(f"expected an Application, not {type(app).__name__}\n{_hint(app)}")
    walk = _Walk(app_name, make_handle or _handle)
    walk.visit(app)
    return walk.nodes[::-1]


def _hint(given: object) -> str:
    if isinstance(given, Deployment):
        return f"it is the deployment {given.name!r}: call its `.bind()`"
    return "make one with `.bind()` of a deployment"


def _handle(deployment_name: str, app_name: str) -> Any:
    from .handle import DeploymentHandle

    return DeploymentHandle(deployment_name, app_name)


def _pickled(init: Any, found: list[Application], name: str) -> bytes:
    """A pickle of it, in which applications are their places in `found`."""
    import cloudpickle  # type: ignore[import-untyped]

    class Finder(cloudpickle.Pickler):  # type: ignore[misc]
        def persistent_id(self, obj: Any) -> int | None:
            if not isinstance(obj, Application):
                return None
            for place, one in enumerate(found):
                if one is obj:
                    return place
            found.append(obj)
            return len(found) - 1

    file = io.BytesIO()
    try:
        Finder(file).dump(init)
    except Exception as error:
        raise TypeError(
            f"what the deployment {name!r} is made from cannot be pickled: {error}\n"
            "bind what is made of it, such as a path, and make the object itself in __init__"
        ) from error
    return file.getvalue()


def _unpickled(pickled: bytes, handles: list[Any]) -> Any:
    class Replacer(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            return handles[pid]

    return Replacer(io.BytesIO(pickled)).load()


def _carried_out(node: _Node) -> None:
    """Refuses what cannot be carried out, and warns of what has no effect."""
    options = _options.written(node.code.options)
    try:
        _fates.refuse(options)
        _policy(node)
        if "user_config" in options and not isinstance(node.code.func_or_class, type):
            raise ValueError("user_config is set, and a function has no reconfigure\nmake it a class that has")
    except ValueError as error:
        raise ValueError(f"deployment {node.name!r}: {error}") from None
    for line in (*_fates.without_effect(options), *_fates.scaling(node.code.options)):
        logger.warning(f"deployment {node.name!r}: {line}")


def _policy(node: _Node) -> None:
    """An autoscaling policy in Python can be had here, so it can where replicas run."""
    scaling = node.code.options.get("autoscaling_config")
    policy = scaling.get_policy() if scaling is not None else None
    if policy is not None and not _fates.is_built_in(policy.policy_function):
        resolvable(policy)


def resolvable(policy: AutoscalingPolicy) -> None:
    """Raises ValueError for a policy that is not where it says."""
    path = policy.policy_function
    try:
        found = policy.get_policy()
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"the autoscaling policy {path!r} cannot be imported: {error}\n"
            "mend its path, or put its module where the application's code is"
        ) from error
    if not callable(found):
        raise ValueError(f"the autoscaling policy {path!r} is {type(found).__name__}\nname a function, or a class")


def _one_ingress(nodes: list[_Node]) -> None:
    """HTTP reaches one deployment."""
    names = [node.name for node in nodes if hasattr(node.code.func_or_class, INGRESS)]
    if len(names) > 1:
        raise RayServeException(
            f"several deployments of the application are decorated with @serve.ingress: {', '.join(names)}\n"
            "leave it with the one that requests from outside come to, and call the others by their handles"
        )


def _described(nodes: list[_Node], args: dict[str, Any]) -> dict[str, Any]:
    deployments = [
        {
            **_options.described(node.code.options),
            "name": node.name,
            "init": {"args": args, "init": None},
            "calls": node.calls,
        }
        for node in nodes
    ]
    return {"ingress": nodes[0].name, "deployments": deployments}
