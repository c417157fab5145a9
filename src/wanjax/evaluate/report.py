"""The report: one HTML file that needs nothing else, the numbers as JSON, and a Markdown table."""

from __future__ import annotations

import base64
import html
import io
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wanjax.errors import notify
from wanjax.evaluate.comparison import Comparison
from wanjax.evaluate.figure import draw_figure
from wanjax.evaluate.sentences import findings
from wanjax.evaluate.spreadsheets import save_csv
from wanjax.evaluate.tables import markdown
from wanjax.files import atomic_path, write_json
from wanjax.media.images import load_image

_PAGE = Path(__file__).parent / "page"
_SCRIPTS = ("page.js", "viewer.js", "charts.js", "tables.js", "main.js")

# Videos beyond this stay files beside the page: browsers open larger pages badly.
_EMBEDDED_BYTES = 150_000_000
_PICTURE = 640  # pixels of a given picture's longer side


def save(comparison: Comparison, folder: str | Path | None = None) -> list[Path]:
    """Write report.html, metrics.json, table.md, videos.csv and variants.csv to `folder`.

    The comparison's figure, if any, is drawn where it is wanted. `folder` is the comparison's
    by default. Returns their paths.
    """
    folder = comparison.folder if folder is None else Path(folder).expanduser()
    page, numbers, table = (folder / n for n in ("report.html", "metrics.json", "table.md"))
    write_json(numbers, comparison.metrics())
    _write(table, markdown(comparison))
    _write(page, report_html(comparison, folder))
    files = [page, numbers, table, *save_csv(comparison, folder)]
    if comparison.figure is not None:
        draw_figure(comparison.figure, comparison)
        files.append(comparison.figure)
    return files


def report_html(comparison: Comparison, folder: Path) -> str:
    """The page, to lie in `folder`."""
    numbers, videos = comparison.metrics(), _videos(comparison, folder)
    linked = sum("url" in video for of in videos.values() for video in of.values())
    if linked:
        said = (
            f"{linked} videos are links to files beside the page, which holds no more than "
            f"{_EMBEDDED_BYTES // 10**6} MB of them: they move with it"
        )
        notify(f"{folder / 'report.html'}: {said}")
        numbers |= {"notes": [*numbers["notes"], said]}
    data = numbers | {
        "findings": findings(comparison),
        "fps": comparison.fps,
        "videos": videos,
        "pictures": _pictures(comparison),
    }
    # a data block ends at the first "</script", which a prompt may contain
    text = json.dumps(data, allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")
    parts = {
        "title": html.escape(f"{comparison.about['title']}: wanjax compare"),
        "style": _read("report.css"),
        "script": "\n".join(map(_read, _SCRIPTS)),
        "data": text,
    }
    before, *rest = _read("report.html").split("{{")
    filled = [before]
    for piece in rest:  # in one pass: no part is searched for places of another
        name, _, after = piece.partition("}}")
        filled += [parts[name], after]
    return "".join(filled)


def _videos(comparison: Comparison, folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Each video inside the page, or its address from `folder` once the page is large."""
    left = _EMBEDDED_BYTES
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in comparison.variants}
    for clip in comparison.clips:
        for variant in comparison.variants:
            path = comparison.videos[variant][clip["name"]]
            left -= path.stat().st_size
            if left >= 0:
                content = {"base64": base64.b64encode(path.read_bytes()).decode()}
            else:
                content = {"url": quote(Path(os.path.relpath(path, folder)).as_posix())}
            found[variant][clip["name"]] = content
    return found


def _pictures(comparison: Comparison) -> dict[str, str]:
    """The picture that each clip was given, as an address that holds the picture itself."""
    found: dict[str, str] = {}
    made: dict[str, str] = {}
    for clip in comparison.clips:
        if (path := clip.get("image")) is not None:
            if path not in made:
                made[path] = _picture(path)
            found[clip["name"]] = made[path]
    return found


def _picture(path: str) -> str:
    image = load_image(path)
    image.thumbnail((_PICTURE, _PICTURE))
    content = io.BytesIO()
    image.save(content, "png")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _read(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")
