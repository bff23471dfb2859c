"""What mkdocs does not do by itself: pages from outside docs/, pages made from the code, links that fit the site.

mkdocs.yml names this file; its functions are called by mkdocs as their names say.
"""

from pathlib import Path

import site_links
import site_reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]


def on_config(config: MkDocsConfig) -> None:
    """Give headings the anchors that they have on GitHub."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = site_links.slug


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages from outside docs/, and those that are made from the code."""
    for source, name in site_links.SHOWN_AS.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    for name, make in site_reference.PAGES.items():
        files.append(File.generated(config, name, content=make()))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to where the site has what they mean; what it does not have, to the repository, if it is known."""
    outside = {name: source for source, name in site_links.SHOWN_AS.items()}
    repository = (config.repo_url or "").rstrip("/")

    def elsewhere(path: str) -> str | None:
        return f"{repository}/blob/main/{path}" if repository else None

    uri = page.file.src_uri
    return site_links.for_site(markdown, outside.get(uri, f"docs/{uri}"), elsewhere)
