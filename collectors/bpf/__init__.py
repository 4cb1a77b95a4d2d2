"""eBPF for collectors of this room: the programs (C and compiled), their loader, and how their maps become rows."""
