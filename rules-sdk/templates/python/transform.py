"""What this rule shows, and why. Settings: `sign`, what stands before each title."""

import json

from wit_world import exports
from wit_world.exports.transformer import (
    Batch,
    Decision_Keep,
    Decision_Patch,
    Edit,
    Transformed,
)
from wit_world.imports import config
from wit_world.imports.types import Reason


class Transformer(exports.Transformer):
    def transform(self, batch: Batch) -> list[Transformed]:
        """Puts a sign before the title."""
        sign = config.get("sign") or "[test]"
        return [self._one(json.loads(item.payload_json), sign) for item in batch.items]

    @staticmethod
    def _one(payload: dict, sign: str) -> Transformed:
        title = payload.get("title")
        if not isinstance(title, str):
            return Transformed(Decision_Keep(), None)
        edit = Edit("/title", json.dumps(f"{sign} {title}"))
        return Transformed(Decision_Patch([edit]), Reason("signed", None))
