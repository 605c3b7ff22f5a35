"""Pure decisions: networks, relations, rules, times of day, and what a filter may open."""

from __future__ import annotations

from fwproxy.policy.networks import Network
from fwproxy.policy.policy import AccessRequest, NetworkRelation, Policy, Relation
from fwproxy.policy.rules import Rule, RuleLimits
from fwproxy.policy.scope import Scope

__all__ = [
    "AccessRequest",
    "Network",
    "NetworkRelation",
    "Policy",
    "Relation",
    "Rule",
    "RuleLimits",
    "Scope",
]
