"""A language model from Python: the server runs it, and no Python does.

The model is the small one inside the binary; name one of Hugging Face, or a path, as `model_source`.

    tyndall run examples.python.llm:app
    curl http://localhost:8000/v1/chat/completions -H 'content-type: application/json' \\
        -d '{"model": "haiku", "messages": [{"role": "user", "content": "Hi"}]}'
"""

from tyndall.llm import LLMConfig, build_openai_app

config = LLMConfig(
    model_loading_config={"model_id": "haiku", "model_source": "demo"},
    engine_kwargs={"max_model_len": 512},
    deployment_config={"autoscaling_config": {"min_replicas": 0, "max_replicas": 2}},
)

app = build_openai_app({"llm_configs": [config]})
