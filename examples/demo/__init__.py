"""The demo: the whole service on real input, with a SIGKILL in the middle and a checker at the end."""
