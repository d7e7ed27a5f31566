"""What each check of a pipeline answers to one call, the checks being those that enforce it.

Run it on a pipeline of one's own: its quotas and places in flight are its alone, so nothing is spent.
"""

from dataclasses import dataclass

from hauberk.interceptors.call import Call
from hauberk.interceptors.errors import Refused
from hauberk.interceptors.pipeline import Pipeline

_BEHIND = {"token": ("roles", "scopes", "claims")}
"""What has no answer once a check before it has refused; behind `peer`, that is everything."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One check's answer."""

    demand: str
    """The check's name in the pipeline: "callers", "shadow token"."""
    refusal: Refused | None
    asked: bool = True
    """Whether it has an answer: not where what it looks at was refused before."""


def explain(pipeline: Pipeline, call: Call) -> list[Answer]:
    """The answers in the order of enforcement. All are asked, also behind the first that refuses."""
    answers: list[Answer] = []
    hidden: set[str] = set()
    for demand, check in pipeline.steps:
        if "peer" in hidden or demand in hidden:
            answers.append(Answer(demand, None, asked=False))
            continue
        before = call.token, call.deadline
        try:
            check(call)
        except Refused as refusal:
            answers.append(Answer(demand, refusal))
            mark, _, name = demand.rpartition(" ")
            hidden.update(f"{mark} {behind}".strip() for behind in _BEHIND.get(name, ()))
            hidden.update({"peer"} if demand == "peer" else ())
        else:
            answers.append(Answer(demand, None))
        if demand == "shadow deadline":
            call.token, call.deadline = before
    return answers


def first_refusal(answers: list[Answer]) -> Answer | None:
    """The one that the caller would hear of; None if it is let in."""
    return next((one for one in answers if one.refusal and not one.demand.startswith("shadow ")), None)
