"""A browser and a server, for the tests that look at the stage as people do."""

from tests.browser import chromium, server, visitor

__all__ = ["chromium", "server", "visitor"]
