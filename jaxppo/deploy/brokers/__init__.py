"""Who takes orders: the accounting function itself, or a real broker."""

from jaxppo.deploy.brokers.base import Broker, BrokerError, Order, Status
from jaxppo.deploy.brokers.named import named_broker
from jaxppo.deploy.brokers.simulated import SimulatedBroker

__all__ = ["Broker", "BrokerError", "Order", "SimulatedBroker", "Status", "named_broker"]
