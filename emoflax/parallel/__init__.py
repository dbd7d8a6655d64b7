"""Devices, hosts and worker processes."""
