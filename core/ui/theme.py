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
    # Before anything else on the page: what its events call.
    f"<script>window.sameSeed = {{}};\n{_text(_HERE / 'visitor.js', _HERE / 'delivery.js')}</script>"
)

_INK = gr.themes.Color(
    name="ink",
    c50="#fafaf8",
    c100="#f3f3ef",
    c200="#e6e5df",
    c300="#d2d1c9",
    c400="#9b9a92",
    c500="#6d6c66",
    c600="#53524d",
    c700="#3b3b37",
    c800="#262623",
    c900="#1a1a18",
    c950="#111110",
)
_TEAL = gr.themes.Color(
    name="teal",
    c50="#eefaf7",
    c100="#d3f2ea",
    c200="#a8e4d5",
    c300="#72d0bb",
    c400="#3db49d",
    c500="#1f9783",
    c600="#127a6a",
    c700="#0f6257",
    c800="#104e46",
    c900="#0f413b",
    c950="#042623",
)


def theme() -> gr.themes.Base:
    # The bundled SemiBold files lack most of ASCII, so only weights 400 and 700 are used.
    return gr.themes.Base(
        primary_hue=_TEAL,
        secondary_hue=_TEAL,
        neutral_hue=_INK,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
        font=[gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=[gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"],
    ).set(**_light(), **_dark())


def _light() -> dict[str, str]:
    return {
        "body_background_fill": "*neutral_50",
        "body_text_color": "*neutral_900",
        "body_text_color_subdued": "*neutral_500",
        "block_background_fill": "white",
        "block_border_color": "*neutral_200",
        "block_radius": "12px",
        "block_title_text_weight": "700",
        "block_title_text_size": "*text_sm",
        "block_title_text_color": "*neutral_700",
        "block_info_text_size": "*text_xs",
        "input_background_fill": "white",
        "input_border_color": "*neutral_300",
        "input_border_color_focus": "*primary_500",
        "input_radius": "9px",
        "input_shadow_focus": "0 0 0 3px #1f978322",
        "button_primary_background_fill": "*primary_700",
        "button_primary_background_fill_hover": "*primary_800",
        "button_primary_border_color": "transparent",
        "button_secondary_background_fill": "white",
        "button_secondary_background_fill_hover": "*neutral_100",
        "button_secondary_border_color": "*neutral_300",
        "button_secondary_text_color": "*neutral_800",
        "button_border_width": "1px",
        "button_large_radius": "9px",
        "button_small_radius": "8px",
        "button_medium_radius": "9px",
        "button_large_text_weight": "700",
        "button_medium_text_weight": "400",
        "slider_color": "*primary_600",
        "chatbot_text_size": "15px",
        "layout_gap": "14px",
        "block_padding": "12px 14px",
        "link_text_color": "*primary_700",
        "loader_color": "*primary_500",
    }


def _dark() -> dict[str, str]:
    return {
        "body_background_fill_dark": "*neutral_950",
        "body_text_color_dark": "#ecebe6",
        "body_text_color_subdued_dark": "#a3a29b",
        "background_fill_primary_dark": "#171716",
        "background_fill_secondary_dark": "#1d1d1b",
        "block_background_fill_dark": "#171716",
        "block_border_color_dark": "#2b2b28",
        "border_color_primary_dark": "#2b2b28",
        "block_shadow_dark": "none",
        "block_title_text_color_dark": "#cfcec7",
        "input_background_fill_dark": "#1d1d1b",
        "input_border_color_dark": "#3a3a36",
        "input_border_color_focus_dark": "*primary_400",
        "button_primary_border_color_dark": "transparent",
        "button_secondary_background_fill_dark": "#1d1d1b",
        "button_secondary_background_fill_hover_dark": "#262623",
        "button_secondary_border_color_dark": "#3a3a36",
        "button_secondary_text_color_dark": "#dddcd5",
        "slider_color_dark": "*primary_400",
        "link_text_color_dark": "*primary_300",
        "code_background_fill_dark": "#222220",
        "color_accent_soft_dark": "#12332e",
    }
