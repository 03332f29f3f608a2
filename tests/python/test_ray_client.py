"""Ray's own client and schema against the admin API."""

import httpx
from conftest import Server, eventually
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.serve.schema import ServeInstanceDetails, ServeStatus

CONFIG = {
    "applications": [
        {
            "name": "second",
            "route_prefix": "/second",
            "import_path": "ray.serve.llm:build_openai_app",
            "args": {
                "llm_configs": [
                    {
                        "model_loading_config": {"model_id": "small", "model_source": "demo"},
                        "deployment_config": {"num_replicas": 1},
                    }
                ]
            },
        }
    ]
}


def details(client: ServeSubmissionClient) -> ServeInstanceDetails:
    """Ray's model refuses keys that it does not know."""
    return ServeInstanceDetails(**client.get_serve_details())


def test_rays_client_deploys_reads_and_removes(server: Server):
    client = ServeSubmissionClient(server.admin)
    client.deploy_applications(CONFIG)

    def running():
        application = details(client).applications.get("second")
        return application and application.status == "RUNNING" and application

    application = eventually("it runs", running)
    (deployment,) = application.deployments.values()
    assert (deployment.status, deployment.status_trigger) == ("HEALTHY", "CONFIG_UPDATE_COMPLETED")
    assert [replica.state for replica in deployment.replicas] == ["RUNNING"]
    assert application.deployed_app_config.import_path == "ray.serve.llm:build_openai_app"
    status: ServeStatus = details(client)._get_status()
    assert status.applications["second"].deployments[deployment.name].replica_states == {"RUNNING": 1}

    body = {"model": "small", "prompt": "Once", "max_tokens": 2}
    answer = httpx.post(f"{server.url}/second/v1/completions", json=body)
    assert answer.status_code == 200, answer.text

    client.deploy_applications({"applications": []})
    eventually("it is gone", lambda: "second" not in details(client).applications)
    assert "demo" in details(client).applications, "it came by another way"
