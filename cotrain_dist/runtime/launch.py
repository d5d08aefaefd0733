"""What the launcher promised: refuse to start where each process would train alone, unaware."""

from collections.abc import Mapping

from cotrain_dist.errors import UserError

MULTI_GPU_HINT = (
    "start with accelerate launch --multi_gpu --num_processes N (on a CPU as well), or with "
    "torchrun --nproc-per-node N"
)

NO_GPU = {"NoDevFiles", "none", "void"}
"""What schedulers and containers write for no GPU at all."""


def check_environment(environ: Mapping[str, str]) -> None:
    """Raise UserError where a launcher meant several processes but told this one of no world.

    Called before any process group exists. `environ` is os.environ.
    """
    if "WORLD_SIZE" in environ:
        _check_rendezvous(environ)
        return
    # With --cpu, accelerate launch starts one process on each machine and tells it of no world.
    if _is_true(environ.get("ACCELERATE_USE_CPU", "")) and "MASTER_ADDR" in environ:
        raise UserError(
            "accelerate launch --cpu",
            f"MASTER_ADDR={environ['MASTER_ADDR']}",
            "the launcher started one process of several, and each would train alone",
            MULTI_GPU_HINT,
        )
    # srun and mpirun without a launcher: N processes, each of which would train both models.
    for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        num_tasks = environ.get(name, "1")
        if num_tasks.isdigit() and int(num_tasks) > 1:
            raise UserError(
                name,
                num_tasks,
                "this process is one of several, but WORLD_SIZE is not set: each would train alone",
                f"run one launcher per node ({MULTI_GPU_HINT}), or unset {name} to train in "
                "one process on purpose",
            )


def _check_rendezvous(environ: Mapping[str, str]) -> None:
    names = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if name not in environ]
    if environ["WORLD_SIZE"] != "1" and missing:
        raise UserError(
            "WORLD_SIZE",
            environ["WORLD_SIZE"],
            f"{', '.join(missing)} not set, so the ranks would not find each other",
            MULTI_GPU_HINT,
        )


def check_world(environ: Mapping[str, str], num_ranks: int) -> None:
    """Raise UserError where Accelerate sees another world than the launcher promised."""
    # On a CPU, an Accelerator that was built before without cpu=True makes N worlds of one.
    promised = environ.get("WORLD_SIZE", "1")
    if promised != str(num_ranks):
        raise UserError(
            "WORLD_SIZE",
            promised,
            f"Accelerate sees a world of {num_ranks} process(es), so ranks would train alone",
            f"build no Accelerator before; {MULTI_GPU_HINT}",
        )


def wants_cpu(device: str, environ: Mapping[str, str]) -> bool:
    """Whether setting or launcher keep this run on CPUs; else it looks for its GPU.

    `device` is the setting: auto, cpu or cuda. Raises UserError where the two contradict.
    """
    launcher_cpu = _is_true(environ.get("ACCELERATE_USE_CPU", ""))
    if device == "cuda" and launcher_cpu:
        raise UserError(
            "device",
            device,
            "the launcher was told to use CPUs",
            "give --device auto or --device cpu",
        )
    return device == "cpu" or launcher_cpu


def check_fallback(device: str, environ: Mapping[str, str], why: str) -> None:
    """Raise UserError where a process that found no GPU must not fall back to the CPU.

    why: the reason in CUDA's words. With `auto` it may, unless it was promised one: a broken driver
    would else show hours later, by a training that has hardly begun.
    """
    if device == "cuda":
        rule = f"this node shows no GPU ({why})"
        raise UserError("device", device, rule, "give --device auto or --device cpu")
    promise = promised_gpu(environ)
    if promise is not None:
        raise UserError(
            "device",
            device,
            f"{promise} promises a GPU, but it cannot be used ({why})",
            "mend CUDA or leave this node out; give --device cpu to train without",
        )


def promised_gpu(environ: Mapping[str, str]) -> str | None:
    """The variable, with its value, by which a user or scheduler gave this process a GPU."""
    # Set by hand or by the scheduler, it decides; empty, it hides all GPUs on purpose.
    if "CUDA_VISIBLE_DEVICES" in environ:
        names: tuple[str, ...] = ("CUDA_VISIBLE_DEVICES",)
    else:
        names = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")
    for name in names:
        if (
            environ.get(name, "")
            not in {"", "0" if name == "SLURM_GPUS_ON_NODE" else "-1"} | NO_GPU
        ):
            return f"{name}={environ[name]}"
    return None


def mixed_precision_of(precision: str, on_cpu: bool, environ: Mapping[str, str]) -> str:
    """The precision in Accelerate's words: the setting, or with `auto` the launcher's.

    Raises UserError where the two contradict each other, or the device cannot do it.
    """
    # accelerate launch always sets it, `no` unless told otherwise; torchrun does not.
    launcher = environ.get("ACCELERATE_MIXED_PRECISION")
    wanted = {"auto": launcher or "no", "fp32": "no"}.get(precision, precision)
    if launcher is not None and launcher != wanted:
        raise UserError(
            "precision",
            precision,
            f"the launcher was told --mixed_precision {launcher}",
            f"give accelerate launch --mixed_precision {wanted}, or leave precision at auto",
        )
    if wanted not in {"no", "bf16", "fp16"} or (wanted == "fp16" and on_cpu):
        raise UserError(
            "precision",
            wanted,
            "is not to be had here: fp16 needs a GPU, and fp8 is not supported",
            "use bf16 or fp32",
        )
    return wanted


def _is_true(value: str) -> bool:
    return value.lower() in {"1", "true", "yes", "on"}
