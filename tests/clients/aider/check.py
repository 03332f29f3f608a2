"""aider from its command line: a message, an answer in the form that it wants, the file edited by it.

The demo model knows no form of edits, so a regular expression in the requests keeps it to one; the words are its own.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from checks import MODEL, run, url, work

BEFORE = "One line.\n"
WORDS = "[a-zA-Z ,.]{4,60}"
WHOLE = rf"note\.txt\n```\n{WORDS}\n```\n"
DIFF = rf"note\.txt\n```\n<<<<<<< SEARCH\nOne line\.\n=======\n{WORDS}\n>>>>>>> REPLACE\n```\n"
# It would otherwise ask another machine for what a model costs.
METADATA = {f"openai/{MODEL}": {"litellm_provider": "openai", "mode": "chat", "max_input_tokens": 16000}}


def aider(name: str, settings: dict, *flags: str) -> tuple[str, str]:
    """What it says of one message, and the file afterwards."""
    folder = work() / name
    folder.mkdir()
    note = folder / "note.txt"
    note.write_text(BEFORE)
    base = {"name": f"openai/{MODEL}", "use_repo_map": False, "use_temperature": 0}
    # JSON is YAML.
    (folder / "settings.yml").write_text(json.dumps([base | settings]))
    (folder / "metadata.json").write_text(json.dumps(METADATA))
    command = [Path(sys.executable).parent / "aider", "--model", f"openai/{MODEL}"]
    command += ["--model-settings-file", "settings.yml", "--model-metadata-file", "metadata.json"]
    command += ["--no-git", "--yes-always", "--no-pretty", "--analytics-disable", "--no-check-update"]
    command += ["--no-show-model-warnings", "--no-show-release-notes", "--no-detect-urls", *flags]
    command += ["--message", "Write a haiku about Ray Serve into the note.", "note.txt"]
    env = os.environ | {"OPENAI_API_BASE": f"{url()}/v1", "OPENAI_API_KEY": "unused"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Error" not in said, said
    assert re.search(r"Tokens: .* sent, .* received", said), said
    return said, note.read_text()


def edits(name: str, edit_format: str, form: str, *flags: str) -> None:
    """The file is what the answer says."""
    extra = {"max_tokens": 200, "extra_body": {"structured_outputs": {"regex": form}}}
    said, after = aider(name, {"edit_format": edit_format, "extra_params": extra}, *flags)
    assert "Applied edit to note.txt" in said, said
    assert after != BEFORE and re.fullmatch(f"{WORDS}\n", after), after
    assert after.strip() in said


def whole():
    """a file written anew, streamed"""
    edits("whole", "whole", WHOLE)


def diff():
    """a line replaced, not streamed"""
    edits("diff", "diff", DIFF, "--no-stream")


def ask():
    """a question, streamed"""
    said, after = aider("ask", {"extra_params": {"max_tokens": 64}}, "--chat-mode", "ask")
    assert after == BEFORE and "Applied edit" not in said, said


run(whole, diff, ask)
