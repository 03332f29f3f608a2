"""Scripts for Ray Serve that deploy what they define themselves."""

import os
import subprocess
import sys

from tyndall import serve

SCRIPT = '''
from __future__ import annotations

import json
import sys
import urllib.request

import ray
from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel
from ray import serve
from ray.serve.handle import DeploymentHandle

api = FastAPI()


class Item(BaseModel):
    name: str
    n: int = 1


class Extra(BaseModel):
    z: int


def token(request: Request) -> str:
    return request.headers.get("x-token", "none")


def extra(item: Item) -> Extra:
    return Extra(z=item.n)


@serve.deployment
class Inner:
    def up(self, text: str) -> str:
        return text.upper()


@serve.deployment
@serve.ingress(api)
class Outer:
    def __init__(self, inner: DeploymentHandle) -> None:
        self.inner = inner

    @api.post("/items")
    async def items(self, item: Item, t: str = Depends(token), e: Extra = Depends(extra)) -> Item:
        return Item(name=await self.inner.up.remote(item.name) + t, n=item.n + e.z)


if __name__ == "__main__":
    url = sys.argv[1]
    ray.init()
    serve.run(Outer.bind(Inner.bind()), name="script", route_prefix="/script")
    inner = serve.get_deployment_handle("Inner", "script")
    assert ray.get(inner.up.remote("a"), timeout=60) == "A"
    body = json.dumps({"name": "x", "n": 3}).encode()
    headers = {"content-type": "application/json", "x-token": "T"}
    asked = urllib.request.Request(f"{url}/script/items", body, headers)
    print(urllib.request.urlopen(asked).read().decode())
    ray.shutdown()
    # The server is not this script's, and goes on.
    assert serve.status().applications["script"].status == "RUNNING"
'''


def test_what_a_script_defines_is_the_same_in_replicas(server, tmp_path):
    address, url = server
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    env = {**os.environ, "TYNDALL_ADDRESS": address}
    command = [sys.executable, "-m", "tyndall.compat", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '{"name":"XT","n":6}'
    serve.delete("script")
