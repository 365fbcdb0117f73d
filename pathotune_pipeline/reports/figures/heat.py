"""The legend of heat maps."""

from __future__ import annotations

from markupsafe import Markup, escape

from pathotune_pipeline.reports.figures.canvas import px, svg, text
from pathotune_pipeline.reports.overlay import heat_colours


def colour_bar(gradient_id: str, what: str = "attention") -> Markup:
    """The heat map's legend: from the least attention to the most, by percentile.

    Args:
        gradient_id: a name that nothing else on the page has.
        what: is shown.
    """
    colours = heat_colours()
    stops = "".join(
        f'<stop offset="{px(100 * index / (len(colours) - 1))}%" stop-color="{colour}"/>'
        for index, colour in enumerate(colours)
    )
    body = [
        f'<defs><linearGradient id="{escape(gradient_id)}">{stops}</linearGradient></defs>',
        f'<rect x="8" y="2" width="244" height="10" rx="2" fill="url(#{escape(gradient_id)})"/>',
    ]
    for x, said in ((8, "0"), (69, "25"), (130, "50"), (191, "75"), (252, "100")):
        body.append(text(x, 26, said, "tick mid"))
    body.append(text(284, 12, f"percentile of {what}", "tick"))
    body.append(text(284, 26, "within the slide", "tick"))
    return svg(430, 32, title=f"Colours: percentile of {what} within the slide", body=body)
