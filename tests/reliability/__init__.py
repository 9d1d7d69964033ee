"""Harnesses of reliability: damaged and hostile inputs."""
