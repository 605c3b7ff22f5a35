"""Real FTP servers and clients, on loopback and in network namespaces."""

import pytest

# So that what these find wrong is explained as it is in test modules.
pytest.register_assert_rewrite(f"{__name__}.matrix")
