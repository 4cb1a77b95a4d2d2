"""The agent: everything between the stages. Start at :mod:`agent.core.flow`, then :mod:`agent.pipeline`."""
