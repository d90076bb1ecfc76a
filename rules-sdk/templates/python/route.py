"""What this rule decides, and why. Settings: `event`, which event it is about."""

from wit_world import exports
from wit_world.exports.router import Batch, Decision_Abstain, Decision_Drop, Routed
from wit_world.imports import config
from wit_world.imports.types import Notification, Priority, Reason


class Router(exports.Router):
    def route(self, batch: Batch) -> list[Routed]:
        """Sends nothing of low priority about the event of the setting."""
        event = config.get("event") or "marketing"
        return [self._one(batch.notifications[item.notification], event) for item in batch.items]

    @staticmethod
    def _one(notification: Notification, event: str) -> Routed:
        if notification.event_type != event:
            return Routed(Decision_Abstain(), Reason("other_event", None))
        if notification.priority == Priority.LOW:
            return Routed(Decision_Drop(), Reason("low_priority", None))
        return Routed(Decision_Abstain(), Reason("not_low", None))
