"""What an epoch says on the console, one line for each."""

from cotrain_dist.store.records import CotrainRecord, PretrainRecord


def pretrain_line(record: PretrainRecord, seconds: float, num_epochs: int) -> str:
    """An epoch of Step 1, which took `seconds` from its start to its commit."""
    # Milliseconds are the smallest unit that is kept, and a tiny epoch may round to none.
    speed = record.fit.num_samples / max(record.seconds.get("train", 0.0), 1e-9)
    line = f"pretrain {record.epoch}/{num_epochs} {record.role.upper()}: "
    line += f"loss {record.fit.loss:.3f}, {speed:.0f} images/s"
    line += _time_left(num_epochs - record.epoch, seconds)
    if record.fit.num_skipped_steps:
        line += f", {record.fit.num_skipped_steps} step(s) left out"
    if record.train_accuracy is not None:
        line += f", own labels {record.train_accuracy:.1%}"
    if record.validation is not None:
        line += f", V {record.validation.top1:.1%}"
    if record.test is not None:
        line += f", T {record.test.top1:.1%}"
    return line


def cotrain_line(record: CotrainRecord, num_epochs: int) -> str:
    """An epoch of Step 2."""
    line = f"cotrain {record.epoch}/{num_epochs}"
    figures, where = (record.test, "T") if record.test else (record.validation, "V")
    if figures is not None:
        line += f": {where} " + ", ".join(
            f"{name if len(name) > 1 else name.upper()} {accuracy.top1:.1%}"
            for name, accuracy in figures.items()
        )
    if record.agreement_rate is not None:
        for name, role in record.roles.items():
            line += f"; R_{name.upper()} {role.num_selected}"
            if role.selected_accuracy is not None:
                line += f" ({role.selected_accuracy:.0%} right)"
    for name, role in record.roles.items():
        if role.fit is not None and role.fit.num_skipped_steps:
            line += f"; {role.fit.num_skipped_steps} step(s) of {name.upper()} left out"
    if record.epoch:
        line += f"; {record.seconds:.0f} s"
        line += _time_left(num_epochs - record.epoch, record.seconds)
    return line


def _time_left(num_epochs: int, seconds_per_epoch: float) -> str:
    """Nothing after the last epoch."""
    seconds = num_epochs * seconds_per_epoch
    if num_epochs == 0:
        return ""
    return f", {seconds:.0f} s left" if seconds < 60 else f", {seconds / 60:.0f} min left"
