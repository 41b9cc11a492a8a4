"""Episodes per second at model level, rates included, against a plain loop over episodes and slots.

The aims: 100,000 episodes per second on one core once the link's law is prepared, and 20 times the loop.
"""

from functools import partial

import numpy as np

from latentcast.link.law import RateLaw
from latentcast.link.rayleigh import RayleighLink
from latentcast.policy.base import Observation, Policy, Transmit
from latentcast.policy.distortion import diffusion_distortion, total_distortion
from latentcast.policy.lookahead import LookaheadPolicy
from latentcast.scenario import Scenario
from latentcast.study.episodes.channels import BLOCK_EPISODES, episode_rates
from latentcast.study.episodes.model_block import model_block
from latentcast.study.episodes.tables import PolicyTable
from timing import best_seconds, report

LOOP_EPISODES = 200


def plain_loop(scenario: Scenario, policy: Policy, episodes: list[list[float]]) -> list[float]:
    """The final D_total of each episode, slot by slot, as one would first write it; rates are given."""
    final = []
    for rates in episodes:
        uploaded, uplink, held, bits, missing = 0.0, 0, scenario.num_steps, 0, 0.0
        step, last = held, (held, held, 0)
        for slot, rate in enumerate(rates, start=1):
            if uploaded < scenario.uplink_bits:
                uploaded, uplink = uploaded + rate, slot
                continue
            newest = max(scenario.num_steps - (slot - uplink - 1), 0)
            if not bits and newest < held:
                action = policy.decide(Observation(slot, newest, held, uplink))
                if isinstance(action, Transmit):
                    bits, step, missing = action.bits, newest, float(scenario.latent_size * action.bits)
            if bits:
                missing -= rate
                if missing <= 0.0:
                    last, held, bits = (step, held, bits), step, 0
        if bits_held := last[2]:
            final.append(float(total_distortion(scenario.path, *last[:2], bits_held)))
        else:
            final.append(float(diffusion_distortion(scenario.path, scenario.num_steps)))
    return final


def block(scenario: Scenario, table: PolicyTable, law: RateLaw) -> None:
    model_block(scenario, [table], episode_rates(law, scenario.deadline_slots, seed=0, block=0))


def main() -> None:
    for snr_db in (0.0, 6.0, 12.0):
        scenario = Scenario.paper(snr_db=snr_db)
        policy, law = LookaheadPolicy(scenario), RateLaw.prepare(scenario.link)
        rates = episode_rates(law, scenario.deadline_slots, seed=0, block=0, count=LOOP_EPISODES).tolist()
        loop = best_seconds(partial(plain_loop, scenario, policy, rates), calls=1) / LOOP_EPISODES
        side_by_side = best_seconds(
            partial(block, scenario, PolicyTable(scenario, policy), law), calls=1, repeats=10
        )
        each = side_by_side / BLOCK_EPISODES
        report(f"one episode in a block, {snr_db:g} dB", each, "plain loop, its rates given", loop)
        print(f"    {1.0 / each:,.0f} episodes per second, {loop / each:.0f} times the loop")
    # A new SNR every time, so that the cache has nothing to give.
    fresh = iter(np.linspace(1.0, 2.0, 100).tolist())
    prepared = best_seconds(lambda: RateLaw.prepare(RayleighLink(snr_db=next(fresh))), calls=1, repeats=3)
    link = RayleighLink(snr_db=6.0)
    drawn = best_seconds(
        lambda: link.sample(BLOCK_EPISODES, 60, rng=np.random.default_rng(0)), calls=1, repeats=3
    )
    report("preparing a link's law", prepared, "waterfilling one block", drawn)


if __name__ == "__main__":
    main()
