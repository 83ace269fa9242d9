"""A package, so that tests share code by one spelling: `from tests.references import ...`."""
