"""Stores, sites, destinations, rules and ownership: what operators write, and what we ship."""
