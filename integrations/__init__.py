"""One thin adapter per trainer, imported as `landscape_hooks.integrations.NAME`."""

if __name__ == "integrations":
    raise ImportError(
        "Found 'integrations' imported from a checkout of landscape-hooks. Expected 'landscape_hooks.integrations', "
        "the name it is installed under (two names would give two different classes). "
        "Install the project (pip install -e .) and import landscape_hooks.integrations."
    )
