"""What labels with a promise ask for, told before a training."""

from cotrain_dist.method.audit import least_audit

DELTA = 0.05
PRECISIONS = (0.90, 0.95, 0.98)
ERRORS = (0.05, 0.01)


def promise_line(num_marked: int) -> str:
    """The least audits of usual promises, and which of them `data.audit_images` may suffice for."""
    needed = {f"--min_precision {share:.2f}": least_audit(share, DELTA) for share in PRECISIONS}
    needed |= {f"--max_error {share:.2f}": least_audit(1.0 - share, DELTA) for share in ERRORS}
    shown = ", ".join(f"{option}: {num}" for option, num in needed.items())
    reached = [option for option, num in needed.items() if num <= num_marked]
    reach = ", ".join(reached) or "none of these"
    return (
        "Labels with a promise (cotrain-dist labels) ask for so many audited images at least, with "
        f"delta {DELTA}, if none of these is labeled wrongly: {shown}. "
        f"data.audit_images {num_marked} may suffice for {reach}; queue RUN --audit N draws more."
    )
