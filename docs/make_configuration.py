"""Write docs/configuration.md from the dataclasses: python docs/make_configuration.py."""

from pathlib import Path

from cotrain_dist.config.schema import describe_keys

HEAD = """\
# Configuration

Every key of `train` and `plan`, for a YAML file (`--config FILE`) or the command line
(`--selection.threshold 0.9`), which wins. Made from the code by `docs/make_configuration.py`.
"""


def render() -> str:
    """The whole page."""
    lines = [HEAD]
    section = None
    for key in describe_keys():
        own_section = key.name.rpartition(".")[0] or "top level"
        if own_section != section:
            section = own_section
            lines += [f"\n## {section}\n", "| key | type | default | |", "|---|---|---|---|"]
        cells = (f"`{key.name}`", key.type, f"`{key.default}`", key.doc)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "configuration.md").write_text(render())
