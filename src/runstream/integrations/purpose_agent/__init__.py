"""What purpose-agent's users switch to: stores of its types, its EventBus and checkpoints over one, its files."""

from runstream.integrations.purpose_agent.agui import agui_sse
from runstream.integrations.purpose_agent.bus import StoreBus
from runstream.integrations.purpose_agent.hitl import HITLCheckpoints
from runstream.integrations.purpose_agent.stores import connect, connect_async
from runstream.integrations.purpose_agent.subscriptions import Deliveries, Delivery, Subscription

__all__ = [
    "Deliveries",
    "Delivery",
    "HITLCheckpoints",
    "StoreBus",
    "Subscription",
    "agui_sse",
    "connect",
    "connect_async",
]
