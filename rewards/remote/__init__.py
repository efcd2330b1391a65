"""Rewards over HTTP: schema, client, server."""
