"""What `latentcast study` and `latentcast record` do, once their arguments are parsed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentcast.cli import console
from latentcast.cli.packages import needs
from latentcast.diffusion.loading import find_model, quiet
from latentcast.diffusion.pipeline import load_pipeline
from latentcast.diffusion.source import seed_stream
from latentcast.study.output import OutputFolder

if TYPE_CHECKING:
    from latentcast.study.limit import LimitRow
    from latentcast.study.runner.versus import Saving

__all__ = ["run_record", "run_study", "show_study"]


def run_study(
    study: str,
    out: Path | None,
    *,
    episodes: int | None,
    seed: int | None,
    processes: int | None,
    ray: str | None,
    pictures: bool,
    as_json: bool,
) -> None:
    """Run a study or go on with it, and draw it.

    Raises:
        LatentcastError: If anything is wrong; finished parts are kept.
        KeyboardInterrupt: As it came, after a note on what is finished.
    """
    with needs("studies need", "study"):
        from latentcast.study.regenerate import regenerate
        from latentcast.study.runner.load import load_study
    changes: dict[str, Any] = {} if seed is None else {"seed": seed}
    config = load_study(study, episodes=episodes, pictures=pictures, **changes)
    folder = Path("runs") / Path(study).stem if out is None else out
    finished = ""
    with console.StageProgress.show(time_left=True) as bars:

        def tell(stage: str, done: int, total: int) -> None:
            nonlocal finished
            finished = f" after {done} of {total} {stage}" if stage.startswith("episodes") else ""
            bars(stage, done, total)

        try:
            result = regenerate(config, folder, processes=processes, ray=ray, progress=tell)
        except KeyboardInterrupt:
            console.print_note(
                f"Stopped{finished}; what is finished is in {folder}, and the same command goes on from it."
            )
            raise
    if as_json:
        files = [str(path) for path in result.files]
        content: dict[str, Any] = {"summary": result.summary, "savings": list(map(asdict, result.savings))}
        if result.limit:
            content = _limit_content(result.limit)
        console.print_json({"folder": str(result.folder), "files": files, **content})
        return
    if result.summary:
        _print_latent_mse(result.summary)
    if result.savings:
        _print_savings(result.savings)
    if result.limit:
        _print_limit(result.limit)
    console.print_files(result.files)


def show_study(name: str) -> None:
    """Print a built-in study's file.

    Raises:
        ParameterError: If there is none of this name.
    """
    with needs("studies need", "study"):
        from latentcast.study.runner.load import built_in_text
    print(built_in_text(name), end="")


def _print_latent_mse(summary: Sequence[dict[str, Any]]) -> None:
    means = {
        (row["snr_db"], row["policy"]): row["mean"] for row in summary if row["quantity"] == "latent_mse"
    }
    policies = list(dict.fromkeys(policy for _, policy in means))
    console.print_table(
        ["SNR dB", *policies],
        [
            [f"{snr_db:g}", *(f"{means[snr_db, policy]:.3g}" for policy in policies)]
            for snr_db in dict.fromkeys(snr_db for snr_db, _ in means)
        ],
        title="Latent MSE at the deadline",
    )


def _print_savings(savings: Sequence[Saving]) -> None:
    policies = list(dict.fromkeys(saving.policy for saving in savings))
    saved = {
        (saving.latent_mse, saving.policy): f"{'>' * saving.at_least}{saving.saved_db:.1f}"
        for saving in savings
    }
    console.print_table(
        ["Latent MSE", *policies],
        [
            [f"{level:g}", *(saved.get((level, policy), "") for policy in policies)]
            for level in sorted({level for level, _ in saved}, reverse=True)
        ],
        title="SNR that the first policy saves at equal latent MSE, in dB (> where one lies beyond the SNRs)",
    )


def _limit_content(rows: Sequence[LimitRow]) -> dict[str, Any]:
    """The headline's rows, one per SNR, and those of the other cases; NaN, of a single episode, is null."""
    values = [
        {name: None if value != value else value for name, value in asdict(row).items()} for row in rows
    ]
    first = rows[0].case
    return {
        "rows": [row for row in values if row["case"] == first],
        "other_cases": [row for row in values if row["case"] != first],
    }


def _print_limit(rows: Sequence[LimitRow]) -> None:
    for case in dict.fromkeys(row.case for row in rows):
        mine = [row for row in rows if row.case == case]
        console.print_table(
            ["SNR dB", "limit", "ours", "above, dB", "paper", "above, dB", "bytes", "headers"],
            [
                [
                    f"{row.snr_db:g}",
                    f"{row.limit:.3g}",
                    f"{row.ours:.3g}",
                    f"{row.gap_db:.2f} ± {row.gap_error_db:.2f}",
                    f"{row.paper:.3g}",
                    f"{row.paper_gap_db:.1f}",
                    f"{row.bytes:.0f}",
                    f"{row.headers:.0f}",
                ]
                for row in mine
            ],
            title=f"{case}: {mine[0].source}, T_d {mine[0].deadline_slots}, K {mine[0].num_subchannels}, "
            f"{mine[0].episodes} episodes, ± standard error",
        )


def run_record(
    source: str,
    model: str,
    out: Path,
    *,
    count: int | None,
    keep_nsfw: bool,
    seed: int,
    num_steps: int,
    batch_size: int,
    device: str,
    as_json: bool,
) -> None:
    """Record the trajectories of many prompts, or go on with a recording.

    Raises:
        LatentcastError: If anything is wrong; what is recorded stays.
        KeyboardInterrupt: As it came, after a note on what is recorded.
    """
    with needs("recording needs", "study"):
        from latentcast.study.recording.prompts import read_prompts
        from latentcast.study.recording.record import record
    seed_stream(seed, "noise")
    find_model(model)
    prompts = read_prompts(source, count=count, keep_nsfw=keep_nsfw)
    OutputFolder(out)
    with console.RecordProgress.show(model) as progress:
        loaded = load_pipeline(model, device, num_steps=num_steps)
        began = time.perf_counter()
        try:
            with quiet():  # text encoders would write two lines for each prompt that they cut short
                recording = record(loaded, prompts, out, seed=seed, batch_size=batch_size, progress=progress)
        except KeyboardInterrupt:
            console.print_note(
                f"{progress.new_items} new items are recorded in {out}; the same command goes on from there."
            )
            raise
        seconds = time.perf_counter() - began
    summary = {
        "folder": str(recording.folder),
        "model": recording.model,
        "items": recording.num_items,
        "new_items": progress.new_items,
        "seconds": seconds,
        "denoiser_share": progress.denoiser_seconds / seconds,
    }
    if as_json:
        console.print_json(summary)
    else:
        sentence = f"{recording.num_items} items of {recording.model}, {progress.new_items} of them new"
        if progress.new_items:
            sentence += f", in {seconds:.1f} s, {summary['denoiser_share']:.0%} of it in the denoiser"
        console.print_sentence(f"{sentence}.")
        console.print_files([recording.folder])
