"""The whole proxy, as a user starts it, with clients and servers of the official SDK."""
