"""Tests of the proxy; README.md tells the layers and the rules."""
