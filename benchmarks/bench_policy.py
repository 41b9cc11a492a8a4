"""Decisions from tables (the aim: under 20 us) and their preparation, against a literal search."""

from functools import partial

from latentcast.policy.base import Observation
from latentcast.policy.distortion import total_distortion
from latentcast.policy.lookahead import LookaheadPolicy
from latentcast.policy.optimal import OptimalPolicy
from latentcast.scenario import Scenario
from timing import best_seconds, report


def literal_search(policy: LookaheadPolicy, observation: Observation, transfer: dict[int, int]) -> float:
    """Strategies 1 and 2 of Section IV-C searched anew, with the distortions looked up by formula."""
    scenario = policy.scenario
    deadline, path = scenario.deadline_slots, scenario.path

    def best_from(start: int, step: int, reference: int) -> float:
        best = float("inf")
        for slot in range(start, deadline + 1):
            bits = max((b for b in transfer if slot + transfer[b] <= deadline), default=None)
            later = max(step - (slot - start), 0)
            if bits is not None and later < reference:
                best = min(best, float(total_distortion(path, later, reference, bits)))
        return best

    slot, step = observation.slot, observation.step
    single = best_from(slot, step, observation.reference_step)
    dual = min(best_from(slot + slots, max(step - slots, 0), step) for slots in transfer.values())
    return min(single, dual)


def main() -> None:
    scenario = Scenario.paper(snr_db=6.0)
    policy = LookaheadPolicy(scenario)
    observation = Observation(slot=20, step=32, reference_step=50, uplink_slots=1)
    transfer = dict(zip(scenario.bit_levels, policy.transfer_slots, strict=True))
    searched = best_seconds(partial(literal_search, policy, observation, transfer), calls=3)
    reference = "literal search"
    decided = best_seconds(partial(policy.decide, observation), calls=10_000)
    report("decision from the table", decided, reference, searched)
    compiled = best_seconds(lambda: LookaheadPolicy(scenario).decide(observation), calls=5)
    report("first decision, with its table", compiled, reference, searched)
    optimal = OptimalPolicy(scenario)
    looked_up = best_seconds(partial(optimal.decide, observation), calls=10_000)
    report("decision of the optimal policy", looked_up, reference, searched)
    solved = best_seconds(lambda: OptimalPolicy(scenario).decide(observation), calls=5)
    report("its first decision, with the law at hand", solved, reference, searched)


if __name__ == "__main__":
    main()
