"""What purpose-agent's users switch to: stores of its types, its EventBus over one, the import of its files."""

from runstream.integrations.purpose_agent.bus import StoreBus
from runstream.integrations.purpose_agent.stores import connect, connect_async

__all__ = ["StoreBus", "connect", "connect_async"]
