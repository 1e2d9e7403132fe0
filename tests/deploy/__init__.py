"""Tests that need system packages: reverse proxies, containers, Prometheus; `make test-all` runs them."""
