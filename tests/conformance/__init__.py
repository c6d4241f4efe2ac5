"""The official conformance suite, run through the proxy."""
