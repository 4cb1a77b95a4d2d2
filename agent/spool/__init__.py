"""What is sealed and not yet acknowledged: bounded, on the disk, safe against kills. Between sealing and Kafka."""
