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
from .config import AutoscalingPolicy, LoggingConfig, RequestRouterConfig
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
    """As `role describe` prints it: `ingress`, and `deployments` with their options, callers before callees. A model
    has, as `model`, what a config file says of it.

    Of an application of models it is `application`, which is what a config file says in its place.
    """
    code: dict[str, Code]
    """By deployment, in the same order; models have none."""
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
        code, described = {}, app.described
    else:
        nodes = _walk(app, name, make_handle)
        code = _code(nodes)
        for deployment, one in code.items():
            _carried_out(deployment, one)
        _one_ingress(code)
        described = _described(nodes, args or {})
    if logging_config is not None:
        logging_config = LoggingConfig.parse("logging_config", logging_config).to_dict(only_set=True)
    return Built(
        name=name,
        application=app,
        route_prefix=route_prefix,
        described=described,
        code=code,
        external_scaler_enabled=external_scaler_enabled,
        logging_config=logging_config,
    )


def describe(
    app: Application, args: dict[str, Any] | None = None, policies: Iterable[str] = (), routers: Iterable[str] = ()
) -> dict[str, Any]:
    """What `role describe` prints of an application that was built with these arguments.

    Raises ValueError where one of the autoscaling policies or request routers that a config file names is not there.
    """
    built = build(app, args=args)
    scaling = [code.options.get("autoscaling_config") for code in built.code.values()]
    own = {one.get_policy().policy_function for one in scaling if one is not None}
    for path in policies:
        if path not in own:
            resolvable(AutoscalingPolicy(policy_function=path))
    configs = [code.options.get("request_router_config") for code in built.code.values()]
    own = {one.request_router_class for one in configs if one is not None}
    for path in routers:
        if path not in own:
            router_class(RequestRouterConfig(request_router_class=path))
    return built.described


def code_of(app: Application, name: str = "default", make_handle: MakeHandle | None = None) -> dict[str, Code]:
    """What replicas run, by deployment, callers before callees; nothing is said of options without effect."""
    return _code(_walk(app, name, make_handle))


def models_of(app: Application, name: str = "default") -> dict[str, str]:
    """The ids of the models that an application of code has, by deployment."""
    nodes = _walk(app, name, None)
    return {node.name: _models.model_id(node.model) for node in nodes if node.model is not None}


def _code(nodes: list[_Node]) -> dict[str, Code]:
    return {node.name: node.code for node in nodes if node.code is not None}


@dataclass
class _Node:
    """A deployment of the graph."""

    name: str
    calls: list[str]
    code: Code | None = None
    """None of a model."""
    model: dict[str, Any] | None = None
    """As a config file has it."""


@dataclass
class _Walk:
    app_name: str
    make_handle: MakeHandle | None
    names: dict[Application, str | None] = field(default_factory=dict)
    """By application, which is one only with itself; None while it is looked through."""
    nodes: list[_Node] = field(default_factory=list)
    """Callees before their callers."""

    def visit(self, app: Application) -> str:
        """The name of an application's deployment; looks through it if that was not done yet."""
        known = self.names.get(app, "")
        if known:
            return known
        native = _models.native(app)
        if isinstance(native, _models.ModelApplication):
            self.names[app] = name = self._model(native)
            return name
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
        self.nodes.append(_Node(name, calls, code))
        return name

    def _model(self, app: _models.ModelApplication) -> str:
        """The name of the deployment of a model, which has no code."""
        if self.make_handle is not None:
            raise ValueError(
                f"{app!r} is served without Python: it does not run in local testing mode\n"
                "run the application on a server, or bind something else in its place"
            )
        if not self.nodes and not self.names:
            raise ValueError(f"{app!r} is no application of code\nrun it as it is")
        if len(app.models) > 1:
            raise ValueError(
                f"{app!r} has several models, and a handle calls one\n"
                "bind an application of build_llm_deployment for each"
            )
        (model,) = app.models
        model_id = _models.model_id(model)
        if any(node.model is not None and _models.model_id(node.model) == model_id for node in self.nodes):
            raise ValueError(
                f"two models are called {model_id!r}\ngive each its own model_id, or bind the same application twice"
            )
        name = self._unique(_models.deployment_name(model))
        self.nodes.append(_Node(name, [], model=model))
        return name

    def _handle(self, name: str) -> Any:
        if self.make_handle is not None:
            return self.make_handle(name, self.app_name)
        from .handle import DeploymentHandle

        (node,) = (node for node in self.nodes if node.name == name)
        model = None if node.model is None else _models.model_id(node.model)
        return DeploymentHandle(name, self.app_name, model=model)

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
            handles.append(self._handle(name))
        # Without applications it stays the very same: nothing is copied that needs not be.
        return _unpickled(pickled, handles) if found else init


def _walk(app: Application, app_name: str, make_handle: MakeHandle | None) -> list[_Node]:
    if not isinstance(app, Application):
        raise TypeError(f"expected an Application, not {type(app).__name__}\n{_hint(app)}")
    walk = _Walk(app_name, make_handle)
    walk.visit(app)
    return walk.nodes[::-1]


def _hint(given: object) -> str:
    if isinstance(given, Deployment):
        return f"it is the deployment {given.name!r}: call its `.bind()`"
    return "make one with `.bind()` of a deployment"


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


def _carried_out(name: str, code: Code) -> None:
    """Refuses what cannot be carried out, and warns of what has no effect."""
    options = _options.written(code.options)
    try:
        _fates.refuse(options)
        _policy(code)
        _router(code)
        _actors(code)
        if "user_config" in options and not isinstance(code.func_or_class, type):
            raise ValueError("user_config is set, and a function has no reconfigure\nmake it a class that has")
    except ValueError as error:
        raise ValueError(f"deployment {name!r}: {error}") from None
    for line in (*_fates.without_effect(options), *_fates.scaling(code.options)):
        logger.warning(f"deployment {name!r}: {line}")


def _policy(code: Code) -> None:
    """An autoscaling policy in Python can be had here, so it can where replicas run."""
    scaling = code.options.get("autoscaling_config")
    policy = scaling.get_policy() if scaling is not None else None
    if policy is not None and not _fates.is_built_in(policy.policy_function):
        resolvable(policy)


def resolvable(policy: AutoscalingPolicy) -> None:
    """Raises ValueError for a policy that is not where it says."""
    path = policy.policy_function
    found = _imported(f"the autoscaling policy {path!r}", policy.get_policy)
    if not callable(found):
        raise ValueError(f"the autoscaling policy {path!r} is {type(found).__name__}\nname a function, or a class")


def _imported(what: str, find: Callable[[], Any]) -> Any:
    """What is found; a ValueError where its path leads nowhere."""
    try:
        return find()
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{what} cannot be imported: {error}\nmend its path, or put its module where the application's code is"
        ) from error


def _router(code: Code) -> None:
    """A request router in Python can be had here, so it can where its process runs."""
    config = code.options.get("request_router_config")
    if config is not None and not config.is_default_request_router():
        router_class(config)


def _actors(code: Code) -> None:
    """The classes of deployment actors can be had here, so they can where their processes run."""
    for actor in code.options.get("deployment_actors") or ():
        what = f"the class of the deployment actor {actor.name!r}, {str(actor.actor_class)!r},"
        if not _fates.is_capacity_queue(actor.actor_class):
            found = _imported(what, actor.get_actor_class)
            if not isinstance(found, type):
                raise ValueError(f"{what} is {type(found).__name__}\nname a class")


def router_class(config: RequestRouterConfig) -> Callable[..., Any]:
    """The class of a request router. Raises ValueError for one that is not where it says, or none of them."""
    path = config.request_router_class
    if str(path).replace(":", ".") in _fates.PREFIX_CACHE:
        raise ValueError(_fates.FOR_MODELS)
    from .request_router import RequestRouter

    found = _imported(f"the request router {path!r}", config.get_request_router_class)
    if not (isinstance(found, type) and issubclass(found, RequestRouter)):
        what = found.__name__ if isinstance(found, type) else type(found).__name__
        raise ValueError(
            f"the request router {path!r} is {what}\nmake it a class of serve.request_router.RequestRouter"
        )
    if missing := getattr(found, "__abstractmethods__", None):
        raise ValueError(f"the request router {path!r} has no {', '.join(sorted(missing))}\nwrite it")
    return found


def _one_ingress(code: dict[str, Code]) -> None:
    """HTTP reaches one deployment."""
    names = [name for name, one in code.items() if hasattr(one.func_or_class, INGRESS)]
    if len(names) > 1:
        raise RayServeException(
            f"several deployments of the application are decorated with @serve.ingress: {', '.join(names)}\n"
            "leave it with the one that requests from outside come to, and call the others by their handles"
        )


def _described(nodes: list[_Node], args: dict[str, Any]) -> dict[str, Any]:
    def one(node: _Node) -> dict[str, Any]:
        made_from = {"name": node.name, "init": {"args": args, "init": None}, "calls": node.calls}
        if node.code is None:
            return {**made_from, "model": node.model}
        return {**_options.described(node.code.options), **made_from}

    return {"ingress": nodes[0].name, "deployments": [one(node) for node in nodes]}
