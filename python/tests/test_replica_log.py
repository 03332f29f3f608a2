"""Lines that a replica writes: their forms, what is in them, and where they go."""

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest

from tyndall.serve import _replica_log
from tyndall.serve.config import EncodingType

PRELUDE = """
import logging, os, sys, threading, types, warnings
from tyndall.serve import _replica_log
from tyndall.serve.context import RequestContext, _serve_request_context

origin = _replica_log.Origin("shop", "Cart", "Cart-1")
access = _replica_log.install(origin, _replica_log.configured(os.environ))
logger = logging.getLogger("tyndall.serve")

def request(**more):
    context = RequestContext(route="/buy", request_id="id-7", app_name="shop", **more)
    _serve_request_context.set(context)

def answered(status=200):
    request()
    http = types.SimpleNamespace(method="GET", status=status, elapsed_ms=1.0, context=types.SimpleNamespace(root_path=""))
    access.http(http, "/buy")
"""


def written(code: str, config: dict | None = None, **env: str) -> list[str]:
    """What a replica that logs so writes to standard error while it runs this; standard output stays empty."""
    script = f"{PRELUDE}\n{textwrap.dedent(code)}\naccess.flush()\n_replica_log.finish()\n"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TYNDALL_LOG")}
    env = {**clean, "TYNDALL_LOGGING_CONFIG": json.dumps(config or {}), **env}
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, env=env)
    assert done.stdout == ""
    return done.stderr.splitlines()


def objects(code: str, config: dict | None = None) -> list[dict]:
    return [json.loads(line) for line in written(code, {"encoding": "JSON", **(config or {})})]


TEXT = r"(?P<level>\w+) \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} shop_Cart Cart-1 (?P<request>\S+ )?-- (?P<message>.*)"


def parsed(line: str) -> tuple[str, str, str]:
    found = re.fullmatch(TEXT, line)
    assert found is not None, line
    return found["level"], (found["request"] or "").strip(), found["message"]


# --- Forms ------------------------------------------------------------------------------------------------------------


def test_a_line_of_text_has_whose_it_is_and_the_request():
    lines = written('logger.info("before %s", 1); request(); logger.warning("in")')
    assert [parsed(line) for line in lines] == [("INFO", "", "before 1"), ("WARNING", "id-7", "in")]


def test_an_object_has_whose_it_is_and_the_request():
    first, second = objects('logger.info("before"); request(); logger.error("in %s", "it")')
    assert "request_id" not in first and "route" not in first
    assert (first["levelname"], first["message"], first["component_name"]) == ("INFO", "before", "replica")
    expected = {
        "levelname": "ERROR",
        "message": "in it",
        "route": "/buy",
        "request_id": "id-7",
        "application": "shop",
        "deployment": "shop_Cart",
        "replica": "Cart-1",
        "component_name": "replica",
        "filename": "<string>",
    }
    assert {name: second[name] for name in expected} == expected
    assert isinstance(second["lineno"], int) and isinstance(second["process"], int)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", second["asctime"])


def test_exceptions_keep_their_traceback():
    code = """
    try:
        {}["key"]
    except KeyError:
        logger.exception("failed")
    """
    (record,) = objects(code)
    assert record["exc_text"].startswith("Traceback") and record["exc_text"].endswith("KeyError: 'key'")
    head, *rest = written(code)
    assert parsed(head) == ("ERROR", "", "failed")
    assert rest[0].startswith("Traceback") and rest[-1] == "KeyError: 'key'"


def test_fields_of_the_code_are_in_the_object():
    (record,) = objects(
        'logger.info("x", extra={"user": 5, "odd": {1}, "ray_serve_extra_fields": {"cart": [1, 2]}, '
        '"log_to_stderr": True})'
    )
    assert (record["user"], record["odd"], record["cart"]) == (5, "{1}", [1, 2])
    assert "log_to_stderr" not in record and "ray_serve_extra_fields" not in record


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"message": 1}, "KeyError: \"ray_serve_extra_fields has 'message', which the line has already"),
        ([1], "ValueError: ray_serve_extra_fields is a list"),
    ],
)
def test_fields_that_cannot_be_are_told_and_end_nothing(extra, told):
    code = f'logger.info("x", extra={{"ray_serve_extra_fields": {extra!r}}}); logger.info("after")'
    text = "\n".join(written(code, {"encoding": "JSON"}))
    assert told in text.replace("\\n", "\n").replace('\\"', '"').replace("\\'", "'") and '"after"' in text


def test_more_standard_attributes_are_in_both_forms():
    more = {"additional_log_standard_attrs": ["name", "funcName"]}
    (record,) = objects("def f(): logger.info('x')\nf()", more)
    assert (record["name"], record["funcName"]) == ("tyndall.serve", "f")
    (line,) = written("def f(): logger.info('x')\nf()", more)
    assert line.endswith(" Cart-1 tyndall.serve f -- x")


def test_code_for_ray_serve_logs_the_same_way():
    (line,) = written('logging.getLogger("ray.serve").info("x")')
    assert parsed(line) == ("INFO", "", "x")


# --- Levels and the access log ----------------------------------------------------------------------------------------

LEVELS = """
for level in ("debug", "info", "warning", "error"):
    getattr(logger, level)(level)
access.is_enabled and logger.error("access")
"""


@pytest.mark.parametrize(
    ("config", "env", "expected"),
    [
        ({}, {}, ["info", "warning", "error", "access"]),
        ({"log_level": "DEBUG"}, {}, ["debug", "info", "warning", "error", "access"]),
        ({"log_level": "WARNING"}, {}, ["warning", "error"]),
        ({"log_level": 40}, {}, ["error"]),
        ({"enable_access_log": False}, {}, ["info", "warning", "error"]),
        ({}, {"TYNDALL_LOG": "error"}, ["error"]),
        ({}, {"TYNDALL_LOG": "trace"}, ["debug", "info", "warning", "error", "access"]),
        ({"log_level": "INFO"}, {"TYNDALL_LOG": "error"}, ["info", "warning", "error", "access"]),
    ],
)
def test_levels_are_those_of_the_configuration_else_the_servers(config, env, expected):
    assert [parsed(line)[2] for line in written(LEVELS, config, **env)] == expected


def test_the_form_is_that_of_the_configuration_else_the_servers():
    def form(config: dict, server: str) -> EncodingType:
        env = {"TYNDALL_LOGGING_CONFIG": json.dumps(config), "TYNDALL_LOG_FORMAT": server}
        return _replica_log.configured(env).encoding

    assert form({}, "json") == EncodingType.JSON
    assert form({"encoding": "TEXT"}, "json") == EncodingType.TEXT
    assert form({}, "text") == form({}, "") == EncodingType.TEXT


def test_requests_are_told_in_order_as_objects_and_with_attributes():
    code = 'answered(); logger.info("after")'
    lines = written(code, {"additional_log_standard_attrs": ["name"]})
    told = ["id-7 tyndall.serve -- GET /buy 200 1.0ms", "id-7 tyndall.serve -- after"]
    assert [line.partition(" Cart-1 ")[2] for line in lines] == told
    first, second = objects(code)
    assert (first["message"], first["route"], first["request_id"]) == ("GET /buy 200 1.0ms", "/buy", "id-7")
    assert first.keys() == second.keys()


def test_loggers_that_the_code_has_changed_are_told_of_requests():
    code = """
    class Kept(logging.Handler):
        def emit(self, record):
            os.write(2, f"kept {record.getMessage()}\\n".encode())

    logger.addHandler(Kept())
    answered()
    logger.setLevel("WARNING")
    answered(500)
    """
    first, second = written(code)
    assert (parsed(first)[2], second) == ("GET /buy 200 1.0ms", "kept GET /buy 200 1.0ms")


# --- Files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["TEXT", "JSON"])
def test_a_folder_of_logs_gets_all_lines_and_requests_go_only_there(tmp_path, encoding):
    config = {"logs_dir": str(tmp_path / "logs"), "encoding": encoding}
    lines = written('logger.info("both"); answered()', config)
    (file,) = (tmp_path / "logs").iterdir()
    assert file.name == "replica_shop_Cart_Cart-1.log"
    kept = file.read_text().splitlines()
    assert lines == kept[:1] and len(kept) == 2
    assert "GET /buy 200" in kept[1] and "id-7" in kept[1]


def test_files_of_logs_are_rotated(tmp_path):
    env = {"RAY_ROTATION_MAX_BYTES": "300", "RAY_ROTATION_BACKUP_COUNT": "2"}
    written('for i in range(50): logger.info("line %d", i)', {"logs_dir": str(tmp_path)}, **env)
    files = sorted(one.name.removeprefix("replica_shop_Cart_Cart-1") for one in tmp_path.iterdir())
    assert files == [".log", ".log.1", ".log.2"]


# --- What does not go through a logger --------------------------------------------------------------------------------


def test_prints_are_lines_of_the_replica():
    code = """
    request()
    print("one\\ntwo"); print("three", end=""); print("!"); sys.stderr.write("four\\n"); print("\\r 10%\\r 99%\\r")
    print(); print("no end", end="")
    """
    expected = ["one", "two", "three!", "four", " 99%", "no end"]
    assert [parsed(line) for line in written(code)] == [("INFO", "id-7", text) for text in expected]
    assert [one["message"] for one in objects(code)] == expected


def test_threads_do_not_mix_their_prints():
    code = """
    print("main", end="")
    thread = threading.Thread(target=lambda: print("other"))
    thread.start(); thread.join()
    print(" goes on")
    """
    assert [parsed(line)[2] for line in written(code)] == ["other", "main goes on"]


def test_a_line_without_end_is_cut():
    lines = written('for _ in range(3): print("x" * 50_000, end="")')
    assert [len(parsed(line)[2]) for line in lines] == [100_000, 50_000]


def test_tracebacks_that_nobody_catches_are_lines_of_the_replica():
    code = """
    thread = threading.Thread(target=lambda: 1 / 0, name="worker")
    thread.start(); thread.join()
    """
    said = [parsed(line)[2] for line in written(code)]
    assert said[0].startswith("Exception in thread worker") and said[-1] == "ZeroDivisionError: division by zero"


def test_warnings_and_loggers_of_libraries_are_lines_of_the_replica():
    code = """
    warnings.warn("old")
    logging.getLogger("library").info("not told"); logging.getLogger("library").warning("told")
    """
    said = [parsed(line)[2] for line in written(code)]
    assert said[0].endswith("UserWarning: old") and said[-1] == "told"


def test_a_logger_that_the_code_has_set_up_stays_as_it_is():
    code = """
    logging.basicConfig(format="own %(message)s", level="DEBUG")
    logging.getLogger("library").debug("told")
    """
    assert [parsed(line)[2] for line in written(code)] == ["own told"]


def test_what_native_code_writes_stays_as_it_is():
    assert written('os.write(2, b"native\\n"); sys.stderr.buffer.write(b"bytes\\n"); sys.stderr.buffer.flush()') == [
        "native",
        "bytes",
    ]


def test_a_log_that_nobody_takes_ends_nothing(tmp_path):
    code = f"""
    os.close(2)
    logger.info("lost"); print("lost"); access.flush()
    open({str(tmp_path / "done")!r}, "w").close()
    """
    assert written(code) == []
    assert (tmp_path / "done").exists()
