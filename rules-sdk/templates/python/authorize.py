"""What this rule decides, and why."""

from wit_world import exports
from wit_world.exports.authorizer import Decision, Decision_Abstain, Decision_Deny, Request
from wit_world.imports.types import PrincipalKind, Reason


class Authorizer(exports.Authorizer):
    def authorize(self, batch: list[Request]) -> list[Decision]:
        """Nobody but a service may send to everybody; other rules and roles decide the rest."""
        return [self._one(request) for request in batch]

    @staticmethod
    def _one(request: Request) -> Decision:
        is_user = request.principal.kind == PrincipalKind.USER
        if is_user and request.action == "notification.send":
            return Decision_Deny(Reason("users_may_not_send", None))
        return Decision_Abstain()
