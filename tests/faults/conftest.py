"""What the tests of faults share."""

import pytest

from tests.faults.children import Children


@pytest.fixture
def children(interpreters):
    return Children(interpreters)
