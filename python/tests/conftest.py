import importlib.util

import pytest


def pytest_collection_modifyitems(items):
    """Tests of another package's code are skipped where it is missing, and say so."""
    for item in items:
        for name in ("torch", "transformers", "jax"):
            if name in item.keywords and importlib.util.find_spec(name) is None:
                item.add_marker(pytest.mark.skip(reason=f"{name} is not installed"))
