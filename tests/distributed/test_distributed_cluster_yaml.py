"""cluster.yaml: Ray's own schema and checks, the token on every node, nothing open to the world."""

import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_it_passes_rays_schema(config):
    import jsonschema
    import ray

    path = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    schema = json.loads(path.read_text())
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "no_such_key": 1}, schema)


def test_rays_launcher_accepts_it(config):
    """What `ray up` does before it reaches for ssh: defaults of the provider, then its checks."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["available_node_types"]["local.cluster.node"]["min_workers"] == 1


def test_every_node_starts_in_token_mode_and_has_the_token(config):
    for kind in ("head", "worker"):
        commands = config[f"{kind}_start_ray_commands"]
        started = [line for line in commands if "ray start" in line]
        assert len(started) == 1
        assert "RAY_AUTH_MODE=token" in started[0]
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert any("chmod 600 ~/.ray/auth_token" in line for line in config["setup_commands"])


def test_the_dashboard_listens_on_loopback_only(config):
    text = (ROOT / "cluster.yaml").read_text()
    assert "0.0.0.0" not in text
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_nodes_install_the_tested_versions(config):
    assert any("-c ~/rayloom/constraints.txt" in line for line in config["setup_commands"])
