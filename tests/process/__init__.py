"""The supervisor with real processes, and workers that do what a test tells them."""
