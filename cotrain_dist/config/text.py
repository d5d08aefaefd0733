"""Settings as text."""

from dataclasses import asdict

import yaml

from cotrain_dist.config.tree import Config


def config_to_yaml(config: Config) -> str:
    """The full tree in the order of its fields, fit for `--config`."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)
