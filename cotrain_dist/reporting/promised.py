"""What `labels` says of its outcome."""

from pathlib import Path

from cotrain_dist.inference.labels import Labeled, Promise
from cotrain_dist.method.audit import ALL
from cotrain_dist.printable import printable


def promise_lines(
    promise: Promise | None, labeled: Labeled, output: Path, rest: Path | None
) -> list[str]:
    """The files, how much of U they hold, and what holds of it."""
    num, num_kept = len(labeled.pool_ids), int(labeled.is_kept.sum())
    share = 100.0 * num_kept / num
    whose = f"of the {num:,} images of {printable(labeled.what)} ({share:.1f} %)"
    lines = [f"{output}: labels of {num_kept:,} {whose}"]
    if rest is not None:
        lines.append(f"{rest}: the other {num - num_kept:,}, for a person")
    lines.append(labeled.estimated.line)
    if promise is None or labeled.cut is None:
        how = "labels --help tells how to get one"
        if labeled.what != "U":
            how = "an audit is of a run's own images"
        return [*lines, f"no promise is made of them: {how}"]
    cut = labeled.cut
    if promise.min_precision is not None:
        what = f"at least {promise.min_precision:.1%} of these labels are right"
    else:
        what = f"at most {promise.max_error:.1%} of all images of U have a wrong label among these"
    where = "all of them" if cut.above == ALL else f"a confidence above {cut.above:.4f}"
    return [
        *lines,
        f"{what}, with {1.0 - promise.delta:.0%} confidence: {where}, {cut.num_audited} audited, "
        f"{cut.num_wrong} of them wrong",
    ]
