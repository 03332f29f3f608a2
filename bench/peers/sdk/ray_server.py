"""Ray Serve with one application: `python ray_server.py MODULE:APPLICATION PORT`, until it is ended."""

import importlib
import sys
import time

import ray
from ray import serve

ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
module, name = sys.argv[1].split(":")
serve.run(getattr(importlib.import_module(module), name))
print("ready", flush=True)
while True:
    time.sleep(60)
