"""What is known of a slide, in lines for people."""

from __future__ import annotations

from pathotune_pipeline.slides.slide import SlideInfo


def describe(info: SlideInfo) -> str:
    """Lines about a slide for `pathotune info`. No path, label or vendor tag is in them.

    Args:
        info: facts of an open slide.
    """
    size = info.size
    lines = [
        f"format      {info.vendor}, read by {info.reader}",
        f"size        {size.width} x {size.height} px" + _extent(info),
        f"mpp         {_mpp(info)}",
        f"objective   {_power(info)}",
        f"levels      {len(info.levels)}",
    ]
    for index, level in enumerate(info.levels):
        mpp = f", {info.mpp.mean * level.downsample:.4g} um/px" if info.mpp else ""
        lines.append(
            f"  {index:>2}        {level.size.width} x {level.size.height} px, 1/{level.downsample:.5g} of level 0{mpp}"
        )
    return "\n".join(lines)


def _extent(info: SlideInfo) -> str:
    if info.mpp is None:
        return ""
    across_mm, down_mm = info.size.width * info.mpp.x / 1000, info.size.height * info.mpp.y / 1000
    return f", {across_mm:.2f} x {down_mm:.2f} mm"


def _mpp(info: SlideInfo) -> str:
    if info.mpp is None:
        return "unknown: give one in the manifest's mpp column, or --mpp-override"
    same = abs(info.mpp.x - info.mpp.y) <= 1e-6 * info.mpp.x
    number = f"{info.mpp.x:.6g}" if same else f"{info.mpp.x:.6g} x {info.mpp.y:.6g}"
    return f"{number} um/px (from {info.mpp_source})"


def _power(info: SlideInfo) -> str:
    return "unknown" if info.objective_power is None else f"{info.objective_power:g}x"
