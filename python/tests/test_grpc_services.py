"""gRPC in a replica: compressed messages, reflection, and the services that it knows."""

import gzip
import subprocess
import sys
import zlib

import grpc
import pytest
from grpc_replica import DEADLINE_S, FUNCTIONS, Whole, Words, both, framed, protos, replica, told, words  # noqa: F401

from tyndall.serve import _grpc_services

# --- Compression ------------------------------------------------------------------------------------------------------

PACK = {"gzip": gzip.compress, "deflate": zlib.compress}


@both
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_messages_are_read(replica, words, way, encoding):
    frames = [framed(PACK[encoding](words.Ask(text="a" * 1000).SerializeToString()), 1), framed(words.Ask(text="b"))]
    source = replica(Words).carry_out(way("/words.Words/Join", frames, [("grpc-encoding", encoding)]))
    (answer,) = source.answers(words.Told)
    assert answer.text == "a" * 1000 + " b"


@both
@pytest.mark.parametrize(
    ("headers", "message", "code"),
    [
        ([("grpc-encoding", "snappy")], b"x", 12),
        ([("grpc-encoding", "identity")], b"x", 13),
        ([], b"x", 13),
        ([("grpc-encoding", "gzip")], b"x", 13),
        ([("grpc-encoding", "gzip")], gzip.compress(b"x" * 100)[:-9], 13),
    ],
)
def test_messages_that_cannot_be_unpacked_are_told(replica, way, headers, message, code):
    source = replica(Words).carry_out(way("/words.Words/Say", [framed(message, 1)], headers))
    assert source.end["code"] == code


@both
@pytest.mark.parametrize("accepted", ["identity, deflate, gzip", "gzip", "identity", None])
@pytest.mark.parametrize("method", ["Say", "Count"])
def test_answers_are_compressed_as_the_client_can_read_them(replica, words, way, accepted, method):
    class Packs:
        async def Say(self, ask, grpc_context):  # noqa: N802
            grpc_context.set_compression(grpc.Compression.Gzip)
            return told("a" * 1000)

        async def Count(self, ask, grpc_context):  # noqa: N802
            grpc_context.set_compression(grpc.Compression.Gzip)
            yield told("a" * 1000)
            grpc_context.set_compression(grpc.Compression.NoCompression)
            yield told("b")

    headers = [] if accepted is None else [("grpc-accept-encoding", accepted)]
    source = replica(Packs).carry_out(way(f"/words.Words/{method}", [framed(words.Ask())], headers))
    (flags, message), *rest, _ = source.frames()
    assert source.end["code"] == 0
    assert [one for one, _ in rest] == [0] * (method == "Count")
    if accepted is None or "gzip" not in accepted:
        assert (flags, words.Told.FromString(message).text) == (0, "a" * 1000)
        assert "grpc-encoding" not in source.answer_headers
    else:
        assert (flags, words.Told.FromString(gzip.decompress(message)).text) == (1, "a" * 1000)
        assert source.answer_headers["grpc-encoding"] == "gzip"


# --- Reflection -------------------------------------------------------------------------------------------------------

VERSIONS = ["v1alpha", "v1"]


@both
@pytest.mark.parametrize("version", VERSIONS)
def test_clients_learn_what_there_is(replica, way, version):
    from grpc_reflection.v1alpha import reflection_pb2

    asked = [
        {"list_services": "*"},
        {"file_containing_symbol": "words.Words"},
        {"file_containing_symbol": "ray.serve.RayServeAPIService"},
    ]
    frames = [framed(reflection_pb2.ServerReflectionRequest(**one)) for one in asked]
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    source = replica(Words).carry_out(way(path, frames))
    services, file, own = source.answers(reflection_pb2.ServerReflectionResponse)
    names = {one.name for one in services.list_services_response.service}
    assert {"words.Words", "words.Plain", "ray.serve.RayServeAPIService", path.split("/")[1]} <= names
    assert b"words.proto" in file.file_descriptor_response.file_descriptor_proto[0]
    assert b"application_names" in own.file_descriptor_response.file_descriptor_proto[0]
    assert source.end["code"] == 0


def test_reflection_can_be_turned_off(replica, monkeypatch):
    monkeypatch.setenv("TYNDALL_GRPC_REFLECTION", "0")
    path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    end = replica(Words).carry_out(Whole(path, [])).end
    assert end["code"] == 12 and "enable_reflection" in end["details"]


def test_reflection_wants_a_package(replica, monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc_reflection.v1alpha", None)
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    end = replica(Words).carry_out(Whole(path, [])).end
    assert end["code"] == 12 and "pip install grpcio-reflection" in end["details"]


# --- Services ---------------------------------------------------------------------------------------------------------


def handlers(**methods):
    return {name: grpc.unary_unary_rpc_method_handler(lambda *_: None) for name in methods}


def older(servicer, server):
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("old.Service", handlers(A=1)),))


def newer(servicer, server):
    servicer.Anything(1, 2)
    server.add_registered_method_handlers("new.Service", handlers(B=1, C=2))


def broken(servicer, server):
    raise RuntimeError("of another release")


def test_services_register_in_both_ways(warned):
    functions = [f"{__name__}:older", f" {__name__}.newer ", f"{__name__}:broken", "absent_module.add", ""]
    table = _grpc_services.table({"TYNDALL_GRPC_SERVICER_FUNCTIONS": ",".join(functions)})
    assert sorted(table.methods) == ["/new.Service/B", "/new.Service/C", "/old.Service/A"]
    assert table.services() == ["new.Service", "old.Service"]
    first, second = warned()
    assert "broken' of grpc_servicer_functions cannot be imported: of another release; mend" in first
    assert "'absent_module.add' of grpc_servicer_functions cannot be imported: No module named" in second
    assert table.problems == [first, second]


def test_messages_without_a_serializer_are_bytes(replica, monkeypatch):
    monkeypatch.setenv("TYNDALL_GRPC_SERVICER_FUNCTIONS", f"{__name__}:older")
    source = replica(lambda given: given * 2).carry_out(Whole("/old.Service/A", [framed(b"ab")]))
    assert source.frames()[0] == (0, b"abab")


def test_a_function_that_is_missing_is_told_to_who_calls(replica, monkeypatch, words):
    monkeypatch.setenv("TYNDALL_GRPC_SERVICER_FUNCTIONS", f"{FUNCTIONS[0]},absent_module.add")
    there = replica(Words)
    assert there.carry_out(Whole("/words.Words/Say", [framed(words.Ask())])).end["code"] == 0
    end = there.carry_out(Whole("/absent.Service/A", [framed(b"")])).end
    assert end["code"] == 12 and "'absent_module.add' of grpc_servicer_functions cannot be imported" in end["details"]


def test_nothing_of_it_is_loaded_before_the_first_call():
    program = """
import sys
from tyndall.serve import _replica, api
import tyndall.serve.grpc_util
loaded = [name for name in sys.modules if name.partition(".")[0] in ("grpc", "google") or "._grpc" in name]
assert loaded == [], loaded
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=DEADLINE_S)


def test_its_names_are_those_of_ray():
    program = """
from tyndall import compat
compat.install()
from ray.serve.grpc_util import RayServegRPCContext, gRPCInputStream
from tyndall.serve import grpc_util
assert RayServegRPCContext is grpc_util.RayServegRPCContext and gRPCInputStream is grpc_util.gRPCInputStream
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=DEADLINE_S)
