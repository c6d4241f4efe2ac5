"""The proxy in front of two small servers, ready to be tried: `make run`, or `python -m examples.demo`."""
