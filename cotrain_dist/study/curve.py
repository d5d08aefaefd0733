"""The curve of a calibration."""

import math
from collections.abc import Sequence
from pathlib import Path

from cotrain_dist.method.calibration import Trial, fitted_accuracy
from cotrain_dist.study.figures import save_figure, use_files_only

NUM_POINTS = 100


def draw_curve(trials: Sequence[Trial], target: float, title: str, folder: Path) -> None:
    """Accuracy over labeled share: trials, the fitted curve, the target; calibration.png, .svg."""
    use_files_only()
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
    shares = [trial.share for trial in trials]
    panel.errorbar(
        shares,
        [100 * trial.mean for trial in trials],
        yerr=[100 * trial.deviation for trial in trials],
        fmt="o",
        capsize=3,
        label="trials: mean and deviation of A and B",
    )
    if len(shares) > 1:  # through one point no curve is fitted
        low, high = math.log(min(shares) / 1.2), math.log(max(shares) * 1.2)
        points = [math.exp(low + (high - low) * i / NUM_POINTS) for i in range(NUM_POINTS + 1)]
        fitted = [100 * fitted_accuracy(trials, share) for share in points]
        panel.plot(points, fitted, lw=1, label="fitted curve")
    panel.axhline(100 * target, color="gray", ls="--", lw=0.8, label="target")
    panel.set_xscale("log")
    panel.set_xticks(shares, [f"{100 * share:.3g}" for share in shares])
    panel.set_xticks([], minor=True)
    panel.set_xlabel("share of each class labeled for each model, %")
    panel.set_ylabel("accuracy on T, %")
    panel.set_title(title, fontsize=9)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7)
    save_figure(figure, folder / "calibration")
