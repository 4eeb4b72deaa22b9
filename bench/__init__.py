"""The import paths of the tests hold for benchmarks, too."""

import tests.conftest  # noqa: F401
