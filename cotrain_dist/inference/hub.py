"""A saved model of a run on the Hugging Face hub, in the layout that timm loads from there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_session, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from cotrain_dist.config import Config
from cotrain_dist.config.starts import CONFIG, WEIGHTS
from cotrain_dist.data.splits import load_split_table
from cotrain_dist.errors import UserError
from cotrain_dist.inference.saved import saved_model
from cotrain_dist.models import DOWNLOAD_SECONDS
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.training.card import CARD, model_card


@dataclass(frozen=True)
class Upload:
    """What a repository of the hub is to hold."""

    repo: str
    """OWNER/NAME."""
    files: Mapping[str, Path | bytes]
    """By name in the repository: a file of the run, or the content itself."""

    def sizes(self) -> dict[str, int]:
        """Bytes by name."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }


def check_repo(repo: str) -> None:
    """Raise UserError for a name that no repository can have."""
    try:
        validate_repo_id(repo)
        why = "" if repo.count("/") == 1 else "names no owner"
    except HFValidationError as error:
        why = f"is no name of a repository ({error})"
    if why:
        raise UserError("REPO", repo, why, "give OWNER/NAME, such as my-name/my-model")


def prepare(config: Config, name: str, repo: str, license_id: str | None) -> Upload:
    """The files of one model of a run, with a card that names the repository.

    config: of the run. name: of a folder of models/. Raises UserError where the run has not
    finished, or the model is not there or damaged.
    """
    store = RunDirectory(Path(config.output_dir))
    folder, settings = saved_model(store.path, name)
    if not store.is_finished():
        way_out = f"train --resume {store.path} first"
        raise UserError("RUN", store.path, "has not finished: its models may still change", way_out)
    card = model_card(
        settings["cotrain_dist"],
        store.history.cotrain(),
        load_split_table(store.path),
        config,
        address=f"hf-hub:{repo}",
        license_id=license_id,
    )
    own = {file: folder / file for file in (CONFIG, WEIGHTS)}
    return Upload(repo, {CARD: card.encode(), **own})


def push(upload: Upload, *, is_public: bool) -> str:
    """Create the repository where there is none, and commit all files at once.

    Returns the commit's address. Raises UserError where the hub cannot be asked, or says no; before
    the commit nothing of the files is visible there.
    """
    if constants.HF_HUB_OFFLINE:
        rule = "forbids to ask the hub, so nothing can be pushed"
        raise UserError("HF_HUB_OFFLINE", "1", rule, "unset it, or look with --dry_run")
    if get_token() is None:
        rule = "needs a login: this machine has no token of the hub"
        raise UserError("REPO", upload.repo, rule, "run hf auth login, or set HF_TOKEN")
    api = HfApi()
    with _asking(upload.repo, api.endpoint):
        # The client itself would wait for an answer without end.
        get_session().head(api.endpoint, timeout=DOWNLOAD_SECONDS)
        api.create_repo(upload.repo, private=not is_public, exist_ok=True)
        is_there_public = not api.model_info(upload.repo).private
    # One that was there before keeps what it was: nobody is to publish by mistake.
    if is_there_public != is_public:
        there, way_out = ("public", "give") if is_there_public else ("private", "leave out")
        rule = f"is there already, and {there}"
        raise UserError("REPO", upload.repo, rule, f"{way_out} --public, or name another")
    with _asking(upload.repo, api.endpoint):
        commit = api.create_commit(
            upload.repo,
            operations=[
                CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
                for name, content in upload.files.items()
            ],
            commit_message="Model trained with cotrain_dist",
        )
    return str(commit.commit_url)


@contextmanager
def _asking(repo: str, endpoint: str) -> Iterator[None]:
    """What the hub or the way to it refuses is a UserError."""
    try:
        yield
    except Exception as error:  # of an HTTP client that may be another one tomorrow
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = " ".join(str(error).split()) or type(error).__name__
        match status:
            case 401:
                rule, way_out = "knows no such token", "run hf auth login, or set HF_TOKEN"
            case 403:
                rule, way_out = "does not let this token write there", "check owner and token"
            case None:
                rule, way_out = "does not answer", "check the network, then push again"
            case _:
                rule, way_out = "refuses", "push again later, or do what it says"
        raise UserError("REPO", repo, f"{endpoint} {rule} ({why[:300]})", way_out) from error
