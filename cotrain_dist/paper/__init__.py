"""The paper, as published."""
