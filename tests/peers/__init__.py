"""Peers of the proxy for tests: servers and clients that are not ours, or that misbehave on purpose."""
