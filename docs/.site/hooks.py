"""Pages of the site that are not files of this folder, and links to files that are pages.

The API has a page for each public module, made from its docstrings. Each example has a page with
its source. CONTRIBUTING.md and CHANGELOG.md are in the root of the repository.
"""

import ast
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")

MOVED = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def modules() -> list[str]:
    """Return the public modules directly in the package, `seqjax` itself first."""
    package = ROOT / "seqjax"
    found = {path.stem for path in package.glob("[a-z]*.py")}
    found |= {path.parent.name for path in package.glob("[a-z]*/__init__.py")}
    return ["seqjax", *(f"seqjax.{name}" for name in sorted(found))]


def sources() -> list[Path]:
    """Return the examples' files, each of which has a page."""
    return sorted((ROOT / "examples").rglob("[a-z]*.py"))


def generated() -> dict[str, str]:
    """Return the generated pages, by their place in the site."""
    pages = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in MOVED.items()}
    for name in modules():
        parts = [f"# {name}", f"::: {name}"]
        for inner in _inner(name):
            parts += [f"## {inner}", f"::: {inner}\n    options: {{heading_level: 3}}"]
        pages[f"api/{_short(name)}.md"] = "\n\n".join(parts) + "\n"
    for path in sources():
        name = path.relative_to(ROOT / "examples").as_posix()
        text = f"# {name}\n\n````python\n{path.read_text(encoding='utf-8')}````\n"
        pages[f"source/{name.removesuffix('.py')}.md"] = text
    return pages


def _inner(module: str) -> list[str]:
    """Return the public modules of a package whose names the package does not export."""
    folder = ROOT / module.replace(".", "/")
    if module == "seqjax" or not folder.is_dir():
        return []
    known = _public(folder / "__init__.py")
    files = sorted(folder.glob("[a-z]*.py"))
    return [f"{module}.{path.stem}" for path in files if not known & _public(path)]


def _public(path: Path) -> set[str]:
    """Return the names that a file lists in `__all__`."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def _short(module: str) -> str:
    return "index" if module == "seqjax" else module.removeprefix("seqjax.")


def place(target: str) -> str | None:
    """Return the place of a file of the repository in the site, or None if it has none.

    >>> place("examples/speaker.py"), place("seqjax/ctc/__init__.py"), place("docs/results.md")
    ('source/speaker.md', 'api/ctc.md', 'results.md')
    """
    if target in MOVED:
        return MOVED[target]
    if target == "examples/README.md":
        return "examples.md"
    if match := re.fullmatch(r"examples/([a-z]\S*)\.py", target):
        return f"source/{match[1]}.md"
    if match := re.fullmatch(r"seqjax/(\w+)(?:/__init__)?\.py", target):
        return f"api/{match[1]}.md"
    return target.removeprefix("docs/") if target.startswith("docs/") else None


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the API's pages into the navigation."""
    api = [{name: f"api/{_short(name)}.md"} for name in modules()]
    config.nav = [{"API": api} if item == {"API": "api/"} else item for item in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for uri, content in generated().items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links to files outside this folder by links to their pages in the site."""
    uri = page.file.src_uri
    if "side-by-side" in markdown:
        page.meta["hide"] = ["toc"]  # two programs side by side need the width
    here = posixpath.dirname({new: old for old, new in MOVED.items()}.get(uri, f"docs/{uri}"))

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, match[2]))
        found = None if "://" in match[2] else place(target)
        if found is None:
            return match[0]
        return match[1] + posixpath.relpath(found, posixpath.dirname(uri) or ".") + match[3]

    return LINK.sub(moved, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Fail if a public name has no entry in the API's pages, such as one without a docstring."""
    missing = []
    for name in modules():
        page = Path(config.site_dir, "api", name.partition(".")[2], "index.html")
        anchors = set(re.findall(r'id="([\w.]+)"', page.read_text(encoding="utf-8")))
        folder = ROOT / name.replace(".", "/")
        path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        inner = {found.stem for found in folder.glob("*.py")} | {
            found.parent.name for found in folder.glob("*/__init__.py")
        }
        names = {f"{name}.{public}" for public in _public(path) - inner}
        missing += sorted(names - anchors)
    if missing:
        raise PluginError(f"not in the API's pages: {', '.join(missing)}")
