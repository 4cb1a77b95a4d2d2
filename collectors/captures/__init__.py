"""Capture files to frames: pcap and pcapng, compressed, piped, growing, in folders."""
