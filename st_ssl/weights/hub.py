"""An encoder for the Hugging Face Hub: a folder with a model card to look at, and, where asked for, its upload."""

from __future__ import annotations

import filecmp
from pathlib import Path
from tempfile import TemporaryDirectory

from st_ssl.core.errors import ConfigError, MissingDependencyError, OutputError, UserError
from st_ssl.core.files import check_writable, replace_text
from st_ssl.encoders.base import load_encoder, save_encoder
from st_ssl.weights.card import NO_LICENCE, model_card
from st_ssl.weights.loading import FILES, REPO

CARD = "README.md"


def write_folder(run: Path, folder: Path, repo: str, data: str = "") -> list[Path]:
    """Write what is to be uploaded of the encoder in ``run`` to ``folder``: ``encoder.json``, ``encoder.safetensors``
    and the model card. A folder that holds the same encoder is left as it is: its card may have been edited since.

    Returns the files. Raises ``ConfigError`` where ``repo`` is no name of a repository, ``OutputError`` where
    ``folder`` holds anything else.
    """
    if REPO.fullmatch(repo) is None:
        raise ConfigError(f"--repo {repo}: a repository on the Hub is called user/name")
    encoder = load_encoder(run)
    files = [folder / name for name in (CARD, *FILES)]
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"--output {folder} is a file: choose another name")
    inside = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if inside and not (set(inside) == {CARD, *FILES} and _same(run, folder)):
        raise OutputError(
            f"--output {folder} holds something else ({', '.join(inside[:3])}): nothing was changed, choose another "
            "folder, or remove this one"
        )
    if not inside:
        card = model_card(encoder, run, repo, data)
        check_writable(folder, "--output ")
        save_encoder(encoder, folder)
        replace_text(folder / CARD, card, alone=True)
    return files


def has_licence(card: Path) -> bool:
    """Whether somebody has said in the first lines of a model card which licence holds."""
    text = card.read_text(encoding="utf-8")
    return NO_LICENCE not in text and any(line.startswith("license:") for line in text.splitlines())


def require_hub() -> None:
    """Raise ``MissingDependencyError`` where the package for the Hub is not there."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("huggingface_hub", "hub", "--upload") from error


def upload(folder: Path, repo: str, public: bool = False) -> str:
    """Upload the three files of ``write_folder``, and nothing else, to ``repo``, which is made if there is none, for
    the author alone unless ``public``. Returns its address. Raises ``UserError`` where the Hub refuses."""
    require_hub()
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=[CARD, *FILES], commit_message="An encoder of st_ssl"
        )
    except Exception as error:  # of the Hub, or of the package for the network, which differs by version
        raise UserError(f"{repo}: could not be uploaded to the Hugging Face Hub: {error}") from error
    return f"https://huggingface.co/{repo}"


def _same(run: Path, folder: Path) -> bool:
    """Whether ``folder`` has the encoder of ``run`` to the bit."""
    with TemporaryDirectory() as fresh:
        save_encoder(load_encoder(run), Path(fresh))
        return all(filecmp.cmp(Path(fresh) / name, folder / name, shallow=False) for name in FILES)
