"""How the page looks: theme, style sheets, the icon in the tab; and the scripts that Gradio loads with it."""

from pathlib import Path

import gradio as gr

_HERE = Path(__file__).parent


def _text(*files: Path) -> str:
    return "\n".join(file.read_text("utf-8") for file in files)


def _all(pattern: str) -> list[Path]:
    """Files of the page, then those of its rooms."""
    return [*sorted(_HERE.glob(pattern)), *sorted(_HERE.glob(f"*/{pattern}"))]


STYLE = _text(*_all("style.css"))
# When the page is there: page.js, and what a room has of the kind.
SCRIPT = "() => {\n" + "".join(f"{{{_text(file)}}}\n" for file in _all("page.js")) + "}"

LOGO = (
    "<svg width='{size}' height='{size}' viewBox='0 0 32 32' aria-hidden='true'><rect width='32' height='32' rx='9' fill='#0f6257'/>"
    "<circle cx='12.2' cy='16' r='6' fill='#fff' fill-opacity='.5'/><circle cx='19.8' cy='16' r='6' fill='#fff' fill-opacity='.9'/></svg>"
)
HEAD = (
    "<meta name='color-scheme' content='light dark'><link rel='icon' href=\"data:image/svg+xml,"
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'><rect width='32' height='32' rx='8' fill='%230f6257'/>"
    "<circle cx='12' cy='16' r='6' fill='%23fff' fill-opacity='.55'/><circle cx='20' cy='16' r='6' fill='%23fff' fill-opacity='.9'/></svg>\">"
    # Not among the other style sheets, before whose every selector Gradio puts a class of its own.
    f"<style>{_text(_HERE / 'embedded.css')}</style>"
    "<script>if (new URLSearchParams(location.search).get('embed') === '1') document.documentElement.classList.add('embedded');</script>"
    # Before anything else on the page: what its events call.
    f"<script>window.sameSeed = {{}};\n{_text(_HERE / 'connection.js', _HERE / 'visitor.js', _HERE / 'delivery.js')}</script>"
)

# From 50 to 950.
_INK = "#fafaf8 #f3f3ef #e6e5df #d2d1c9 #9b9a92 #6d6c66 #53524d #3b3b37 #262623 #1a1a18 #111110"
_TEAL = "#eefaf7 #d3f2ea #a8e4d5 #72d0bb #3db49d #1f9783 #127a6a #0f6257 #104e46 #0f413b #042623"

# Name, light, dark; where one is not there Gradio's own stands.
_VARIABLES: tuple[tuple[str, str | None, str | None], ...] = (
    ("body_background_fill", "*neutral_50", "*neutral_950"),
    ("body_text_color", "*neutral_900", "#ecebe6"),
    ("body_text_color_subdued", "*neutral_500", "#a3a29b"),
    ("block_background_fill", "white", "#171716"),
    ("block_border_color", "*neutral_200", "#2b2b28"),
    ("block_radius", "12px", None),
    ("block_title_text_weight", "700", None),
    ("block_title_text_size", "*text_sm", None),
    ("block_title_text_color", "*neutral_700", "#cfcec7"),
    ("block_info_text_size", "*text_xs", None),
    ("input_background_fill", "white", "#1d1d1b"),
    ("input_border_color", "*neutral_300", "#3a3a36"),
    ("input_border_color_focus", "*primary_500", "*primary_400"),
    ("input_radius", "9px", None),
    ("input_shadow_focus", "0 0 0 3px #1f978322", None),
    ("button_primary_background_fill", "*primary_700", None),
    ("button_primary_background_fill_hover", "*primary_800", None),
    ("button_primary_border_color", "transparent", "transparent"),
    ("button_secondary_background_fill", "white", "#1d1d1b"),
    ("button_secondary_background_fill_hover", "*neutral_100", "#262623"),
    ("button_secondary_border_color", "*neutral_300", "#3a3a36"),
    ("button_secondary_text_color", "*neutral_800", "#dddcd5"),
    ("button_border_width", "1px", None),
    ("button_large_radius", "9px", None),
    ("button_small_radius", "8px", None),
    ("button_medium_radius", "9px", None),
    ("button_large_text_weight", "700", None),
    ("button_medium_text_weight", "400", None),
    ("slider_color", "*primary_600", "*primary_400"),
    ("layout_gap", "14px", None),
    ("block_padding", "12px 14px", None),
    ("link_text_color", "*primary_700", "*primary_300"),
    ("loader_color", "*primary_500", None),
    ("background_fill_primary", None, "#171716"),
    ("background_fill_secondary", None, "#1d1d1b"),
    ("border_color_primary", None, "#2b2b28"),
    ("block_shadow", None, "none"),
    ("code_background_fill", None, "#222220"),
    ("color_accent_soft", None, "#12332e"),
)


def theme() -> gr.themes.Base:
    ink, teal = (gr.themes.Color(*ramp.split()) for ramp in (_INK, _TEAL))
    light = {name: value for name, value, _ in _VARIABLES if value}
    dark = {f"{name}_dark": value for name, _, value in _VARIABLES if value}
    # The bundled SemiBold files lack most of ASCII, so only weights 400 and 700 are used.
    return gr.themes.Base(
        primary_hue=teal,
        secondary_hue=teal,
        neutral_hue=ink,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
        font=[gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=[gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"],
    ).set(**light, **dark)
