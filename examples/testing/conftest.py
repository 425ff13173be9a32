"""Every async test in virtual time."""

pytest_plugins = ["asyncpc.testing.plugin"]
