"""Reflection: a client asks which services there are, and of what their messages consist."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from ._grpc_services import Method

PREFIXES: Final = ("/grpc.reflection.v1alpha.ServerReflection/", "/grpc.reflection.v1.ServerReflection/")
"""Versions of the service. Their messages are the same, and so the package that has the first answers for both."""

OWN_SERVICE: Final = "ray.serve.RayServeAPIService"
"""The server's own service, which its proxy answers for."""


def answers(path: str, services: Iterable[str]) -> tuple[Method, Any]:
    """The method, and what is called with its messages.

    Raises ImportError where the package is missing.
    """
    from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped]

    _describe_own()
    names = {*services, OWN_SERVICE, reflection.SERVICE_NAME, path.split("/")[1]}
    servicer = reflection.aio.ReflectionServicer(names)
    request, response = reflection_pb2.ServerReflectionRequest, reflection_pb2.ServerReflectionResponse
    method = Method(True, True, request.FromString, response.SerializeToString)

    def answer(messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        given: AsyncIterator[Any] = servicer.ServerReflectionInfo(messages, None)
        return given

    return method, answer


def _describe_own() -> None:
    """Has the process know the messages of the server's own service, if it does not yet."""
    from google.protobuf import descriptor_pb2, descriptor_pool  # type: ignore[import-untyped, unused-ignore]

    pool = descriptor_pool.Default()
    try:
        pool.FindServiceByName(OWN_SERVICE)
        return
    except KeyError:
        pass
    package, _, service_name = OWN_SERVICE.rpartition(".")
    file = descriptor_pb2.FileDescriptorProto(name="tyndall/serve.proto", package=package, syntax="proto3")
    service = file.service.add(name=service_name)
    field = descriptor_pb2.FieldDescriptorProto
    for name, answer, label in (
        ("ListApplications", "application_names", field.LABEL_REPEATED),
        ("Healthz", "message", field.LABEL_OPTIONAL),
    ):
        file.message_type.add(name=f"{name}Request")
        message = file.message_type.add(name=f"{name}Response")
        message.field.add(name=answer, number=1, label=label, type=field.TYPE_STRING)
        types = {"input_type": f".{package}.{name}Request", "output_type": f".{package}.{name}Response"}
        service.method.add(name=name, **types)
    pool.AddSerializedFile(file.SerializeToString())
