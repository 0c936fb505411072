"""Look at the cards of cards/ as pages: Markdown to HTML, and a screenshot of each in light and in dark.

    python examples/look_at_cards.py -o pages

needs markdown-it-py and, for the screenshots, Chromium or Chrome on the PATH. The page is GitHub's in the main: tables, code, HTML
in Markdown, colours by the reader's choice. Unlike the Hub and GitHub it sanitises nothing, so that whatever a card lets through shows.
"""

from __future__ import annotations

import argparse
import html
import io
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from markdown_it import MarkdownIt
from PIL import Image

CARDS = Path(__file__).parents[1] / "cards"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
THEMES = {"light": 1, "dark": 0}  # as Chromium numbers prefers-color-scheme
WIDTH, TALLEST = 1000, 8000  # pixels
BORDER = 32  # pixels that are left below the text

STYLE = """
:root { --page: #ffffff; --ink: #1f2328; --faint: #d1d9e0; --shade: #f6f8fa; --code: #818b981f; --link: #0969da; }
@media (prefers-color-scheme: dark) {
  :root { --page: #0d1117; --ink: #f0f6fc; --faint: #3d444d; --shade: #151b23; --code: #656c7633; --link: #4493f8; color-scheme: dark; }
}
body { background: var(--page); color: var(--ink); font: 16px/1.5 "Noto Sans", Helvetica, Arial, sans-serif; }
body { max-width: 896px; margin: 32px auto; overflow-wrap: break-word; }
h1, h2 { border-bottom: 1px solid var(--faint); padding-bottom: .3em; line-height: 1.25; margin: 24px 0 16px; }
a { color: var(--link); }
code { background: var(--code); border-radius: 6px; padding: .2em .4em; font-size: 85%; }
code { font-family: ui-monospace, "Liberation Mono", monospace; }
pre { background: var(--shade); border-radius: 6px; padding: 16px; overflow: auto; line-height: 1.45; }
pre code { background: none; padding: 0; }
table { border-collapse: collapse; display: block; width: max-content; max-width: 100%; overflow: auto; margin-bottom: 16px; }
th, td { border: 1px solid var(--faint); padding: 6px 13px; }
tr:nth-child(2n) { background: var(--shade); }
img { max-width: 100%; }
"""


def page(card: str, folder: Path) -> str:
    """A card as an HTML page whose images lie in `folder`; its front matter is left out, as the Hub does."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    text = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(body)
    base = html.escape(folder.resolve().as_uri() + "/", quote=True)
    return f'<!doctype html>\n<meta charset="utf-8">\n<base href="{base}">\n<style>{STYLE}</style>\n<body>\n{text}</body>\n'


def browser() -> str | None:
    """A Chromium that is installed, None without one."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def screenshot(chromium: str, place: Path, theme: str) -> Image.Image:
    """A page from its first to its last line, as somebody sees it who prefers that theme. CalledProcessError if Chromium fails."""
    with tempfile.TemporaryDirectory() as profile:
        target = Path(profile) / "page.png"
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        command += [f"--blink-settings=preferredColorScheme={THEMES[theme]}", f"--window-size={WIDTH},{TALLEST}"]
        command += [f"--screenshot={target}", place.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        whole = Image.open(io.BytesIO(target.read_bytes())).convert("RGB")
    pixels = np.asarray(whole)
    used = np.flatnonzero((pixels != pixels[-1, 0]).any(axis=(1, 2)))
    return whole.crop((0, 0, whole.width, min(whole.height, int(used[-1]) + BORDER if len(used) else BORDER)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder for the pages and images")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    chromium = browser()
    for card in sorted(CARDS.glob("*/README.md")):
        place = output / f"{card.parent.name}.html"
        place.write_text(page(card.read_text(encoding="utf-8"), card.parent), encoding="utf-8")
        for theme in THEMES if chromium else ():
            screenshot(str(chromium), place, theme).save(output / f"{card.parent.name}-{theme}.png")
    print(f"wrote   {output}" + ("" if chromium else ", without screenshots: there is no Chromium on the PATH"))


if __name__ == "__main__":
    main()
