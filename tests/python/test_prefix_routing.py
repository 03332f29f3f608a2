"""Conversations with a model of several replicas: each turn finds what the turns before have left in a cache."""

import httpx
import openai
import pytest
from serving import serving

ROUTER = "ray.serve.llm.request_router:PrefixCacheAffinityRouter"
FILE = f"""
applications:
- name: chat
  model:
    model_loading_config: {{model_id: demo, model_source: demo}}
    deployment_config:
      num_replicas: 3
      request_router_config:
        request_router_class: {ROUTER}
        request_router_kwargs: {{match_rate_threshold: 0.2}}
"""
BLOCK = 32
CONVERSATIONS, TURNS = 5, 5


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    (home / "serve.yaml").write_text(FILE)
    with serving(home, str(home / "serve.yaml")) as server:
        yield server


def test_a_conversation_stays_where_its_beginning_is(replicas):
    client = openai.OpenAI(base_url=f"{replicas.url}/v1", api_key="none")
    conversations = [
        [{"role": "user", "content": f"{number}: one of many that begin with a number, and go on with a sentence."}]
        for number in range(CONVERSATIONS)
    ]
    before = [0] * CONVERSATIONS
    for _ in range(TURNS):
        for number, messages in enumerate(conversations):
            answer = client.chat.completions.create(model="demo", messages=messages, max_tokens=4)
            # All of the turn before, but for what does not fill a block.
            assert answer.usage.prompt_tokens_details.cached_tokens >= before[number] // BLOCK * BLOCK, number
            before[number] = answer.usage.prompt_tokens
            messages.append({"role": "assistant", "content": answer.choices[0].message.content})
            messages.append({"role": "user", "content": "And what came of it, in the end?"})
    assert min(before) > 3 * BLOCK


def test_the_status_tells_the_router(replicas):
    told = httpx.get(f"{replicas.admin}/api/serve/applications/").json()
    (deployment,) = told["applications"]["chat"]["deployments"].values()
    config = deployment["deployment_config"]["request_router_config"]
    assert config["request_router_class"] == ROUTER
    assert config["request_router_kwargs"] == {
        "imbalanced_threshold": None,
        "match_rate_threshold": 0.2,
        "eviction_threshold_chars": 400_000,
    }
