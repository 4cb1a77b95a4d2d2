"""A fleet that does not exist: hosts, their traffic and their agents, made from a seed. Nothing here touches a network."""
