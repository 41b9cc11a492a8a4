"""What the study commands do, once their arguments are parsed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentcast import console
from latentcast.errors import ParameterError

__all__ = ["run_study", "show_study"]


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
    try:
        from latentcast.study.regenerate import regenerate
        from latentcast.study.runner.load import load_study
    except ImportError as error:
        raise _needs_packages(error) from error
    changes: dict[str, Any] = {} if seed is None else {"seed": seed}
    config = load_study(study, episodes=episodes, pictures=pictures, **changes)
    folder = Path("runs") / Path(study).stem if out is None else out
    finished = ""
    with console.StageProgress.show(time_left=True) as bars:

        def tell(stage: str, done: int, total: int) -> None:
            nonlocal finished
            finished = f" after {done} of {total} {stage}" if stage == "episodes" else ""
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
        console.print_json({"folder": str(result.folder), "files": files, "summary": result.summary})
        return
    if result.summary:
        _print_latent_mse(result.summary)
    console.print_files(result.files)


def show_study(name: str) -> None:
    """Print a built-in study's file.

    Raises:
        ParameterError: If there is none of this name.
    """
    try:
        from latentcast.study.runner.load import built_in_text
    except ImportError as error:
        raise _needs_packages(error) from error
    print(built_in_text(name), end="")


def _print_latent_mse(summary: Sequence[dict[str, Any]]) -> None:
    means = {
        (row["snr_db"], row["policy"]): row["mean"] for row in summary if row["quantity"] == "latent_mse"
    }
    policies = list(dict.fromkeys(policy for _, policy in means))
    console.print_table(
        "Latent MSE at the deadline",
        ["SNR dB", *policies],
        [
            [f"{snr_db:g}", *(f"{means[snr_db, policy]:.3g}" for policy in policies)]
            for snr_db in dict.fromkeys(snr_db for snr_db, _ in means)
        ],
    )


def _needs_packages(error: ImportError) -> ParameterError:
    return ParameterError(
        f"studies need the package {error.name}; install it with: pip install 'latentcast[study]'"
    )
