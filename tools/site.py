"""The files of the site of the documentation, a hook of MkDocs (see mkdocs.yml): docs/ and the pages above it.

MkDocs knows one folder of pages. README.md and others lie where a Git host looks for them, and link to docs/ and back.
So the site is a part of the repository as it lies: every relative link stands, and one that leads to a file that is not here
fails the build.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

KEPT = (
    "*.md",
    "LICENSE",
    "benchmarks/results/*.md",
    "checkpoints/LICENSE.md",
    "checkpoints/*/README.md",
    "checkpoints/recipe/sources.toml",
    "docs/**/*",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's own files, and those that are kept, by their places in the repository."""
    home = Path(config.config_file_path).parent
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    for path in sorted({path for pattern in KEPT for path in home.glob(pattern) if path.is_file()}):
        place = path.relative_to(home).as_posix()
        files.append(File(place, str(home), config.site_dir, config.use_directory_urls))
    return files
