"""What this host's kernel tells: interfaces and addresses, sockets, processes, control groups."""
