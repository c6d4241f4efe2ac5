"""The parts of the supervisor, one by one."""
