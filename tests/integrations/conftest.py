"""What the tests of all adapters share: the example in an adapter's docstring is run as it stands."""

import doctest

import pytest


@pytest.fixture
def run_example(tmp_path, monkeypatch):
    """Runs the docstring of an adapter in an empty folder, with the names that a training script has anyway."""
    monkeypatch.chdir(tmp_path)

    def run(adapter, **names):
        example = doctest.DocTestFinder(recurse=False).find(adapter, adapter.__name__, globs=dict(names))[0]
        assert example.examples
        for line in example.examples:  # what trainers print is theirs
            exec(line.source, example.globs)
        return example.globs

    return run
