"""What an agent does with sealed batches where Kafka is set: ``send`` signs and spools them, ``carrying`` brings them to Kafka
and tells heartbeats, ``tripwire`` alerts while Kafka is away, ``joining`` asks the detector to know this agent."""
