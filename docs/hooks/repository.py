"""Files of the repository outside docs/ that pages link to become pages of the site, so that it is whole by itself.

In a page stands what works in the repository, too: `[deployments.yaml](../configs/deployments.yaml)`.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

LOG = logging.getLogger("mkdocs.hooks.repository")
LINK = re.compile(r"(?<=\]\()(?P<target>\.\./[^)#\s]+)(?=[)#])")
ALWAYS = ("CHANGELOG.md",)
"""Shown whether or not a page links to it."""
_LANGUAGES = {
    ".yaml": "yaml",
    ".yml": "yaml",
    ".sh": "sh",
    ".py": "python",
    ".toml": "toml",
    ".def": "sh",
    ".csv": "text",
}


def outside(page: str, target: str) -> str | None:
    """The path from the repository's root of what a link on a page names, or None where that lies in docs/.

    Args:
        page: the page's path from docs/, such as `howto/slurm.md`.
        target: what the link says, such as `../../configs/execution`.
    """
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path == "docs" or path.startswith("docs/") else path


def page_of(path: str) -> str:
    """The site's page that shows a file or folder of the repository."""
    return f"files/{path}" if path.endswith(".md") else f"files/{path}.md"


def show(root: Path, path: str) -> str:
    """The Markdown that shows a file, or every file of a folder."""
    place = root / path
    if path.endswith(".md"):
        return place.read_text(encoding="utf-8")
    if place.is_dir():
        files = sorted(each for each in place.iterdir() if each.is_file())
        return "\n\n".join([f"# {path}/", *(f"## {each.name}\n\n{_fenced(each)}" for each in files)])
    return f"# {path}\n\n{_fenced(place)}"


def _fenced(path: Path) -> str:
    text = path.read_text(encoding="utf-8").rstrip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{_LANGUAGES.get(path.suffix, 'text')}\n{text}\n{fence}"


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each path outside docs/ that a page links to. A path that is not there is a warning."""
    root = Path(config.docs_dir).parent
    wanted = dict.fromkeys(ALWAYS, "")
    for file in files.documentation_pages():
        for match in LINK.finditer(file.content_string):
            path = outside(file.src_uri, match["target"])
            if path is not None:
                wanted.setdefault(path, file.src_uri)
    for path, page in wanted.items():
        if (root / path).exists():
            files.append(File.generated(config, page_of(path), content=show(root, path)))
        else:
            LOG.warning("%s links to %s, which is not in the repository", page, path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links out of docs/ to those pages."""
    here = page.file.src_uri

    def lead(match: re.Match[str]) -> str:
        path = outside(here, match["target"])
        return match[0] if path is None else posixpath.relpath(page_of(path), posixpath.dirname(here) or ".")

    return LINK.sub(lead, markdown)
