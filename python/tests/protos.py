"""A service of gRPC for tests, and its code as the library's own compiler generates it."""

import sys

import pytest

PROTO = """
syntax = "proto3";

package words;

message Ask {
  string text = 1;
  int32 count = 2;
}

message Told {
  string text = 1;
  int32 number = 2;
}

service Words {
  rpc Say(Ask) returns (Told);
  rpc Count(Ask) returns (stream Told);
  rpc Join(stream Ask) returns (Told);
  rpc Echo(stream Ask) returns (stream Told);
  rpc Absent(Ask) returns (Told);
}

service Plain {
  rpc __call__(Ask) returns (Told);
}
"""

FUNCTIONS = ["words_pb2_grpc.add_WordsServicer_to_server", "words_pb2_grpc:add_PlainServicer_to_server"]


def compile_to(folder):
    """Has the modules `words_pb2` and `words_pb2_grpc` in the folder."""
    from grpc_tools import protoc

    (folder / "words.proto").write_text(PROTO)
    words = ["protoc", f"-I{folder}", f"--python_out={folder}", f"--grpc_python_out={folder}", "words.proto"]
    assert protoc.main(words) == 0


@pytest.fixture(scope="session")
def protos(tmp_path_factory):
    """The folder of the generated modules, which this process can import too."""
    folder = tmp_path_factory.mktemp("protos")
    compile_to(folder)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
