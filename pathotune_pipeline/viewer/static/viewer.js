"use strict";
(async () => {
  const handle = document.body.dataset.handle, here = `/api/slides/${handle}`;
  const one = (id) => document.getElementById(id);
  const asked = async (address) => {
    const answer = await fetch(address);
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    return told;
  };
  const note = (said) => {
    const shown = one("note");
    shown.textContent = [shown.textContent, said].filter(Boolean).join(" ");
    shown.hidden = false;
  };
  const showReviews = (reviews) => {
    one("reviews").replaceChildren(...reviews.map((review) => {
      const line = document.createElement("li");
      const badge = document.createElement("span");
      badge.className = `badge ${review.verdict}`;
      badge.textContent = review.verdict;
      line.append(badge, ` ${review.by}, ${review.at.replace("T", " ").replace("Z", " UTC")}${review.comment ? `: ${review.comment}` : ""}`);
      return line;
    }));
  };

  let slide;
  try {
    slide = await asked(here);
  } catch (error) {
    note(error.message);
    return;
  }
  for (const said of [slide.note, slide.problem, slide.review_trouble]) if (said) note(said);
  one("facts").textContent = [
    slide.width ? `${slide.width.toLocaleString("en")} × ${slide.height.toLocaleString("en")} px` : "",
    slide.mpp ? `${slide.mpp.toPrecision(3)} µm/px` : "",
    slide.area_mm2 ? `${slide.area_mm2.toPrecision(3)} mm² of tissue` : "",
    slide.tiles === null ? "" : `${slide.tiles.toLocaleString("en")} tiles`,
  ].filter(Boolean).join(" · ");
  const reviews = slide.reviews;
  showReviews(reviews);

  const by = one("by");
  by.value = localStorage.getItem("reviewer") || "";
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.addEventListener("click", async () => {
      const said = { verdict: button.dataset.verdict, by: by.value, comment: one("comment").value };
      const answer = await fetch(`${here}/reviews`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(said) });
      const told = await answer.json();
      one("answer").textContent = answer.ok ? "Kept." : told.error;
      one("answer").className = answer.ok ? "" : "note";
      if (!answer.ok) return;
      localStorage.setItem("reviewer", by.value);
      one("comment").value = "";
      reviews.push(told);
      showReviews(reviews);
    });
  }
  if (!slide.width) {
    note("There are no pixels to show.");
    return;
  }

  const viewer = OpenSeadragon({
    element: one("stage"), drawer: "canvas", showNavigationControl: false, showNavigator: true, navigatorPosition: "TOP_LEFT",
    maxZoomPixelRatio: 4, animationTime: 0.4, visibilityRatio: 0.5, imageLoaderLimit: 6, timeout: 60000,
    tileSources: { Image: {
      xmlns: "http://schemas.microsoft.com/deepzoom/2008", Url: `/dzi/${handle}_files/`, Format: "jpeg",
      Overlap: String(slide.overlap), TileSize: String(slide.tile_size), Size: { Width: String(slide.width), Height: String(slide.height) },
    } },
  });
  viewer.addHandler("tile-load-failed", (event) => { one("stage").dataset.failed = event.message; });
  one("zoom-in").addEventListener("click", () => { viewer.viewport.zoomBy(2); viewer.viewport.applyConstraints(); });
  one("zoom-out").addEventListener("click", () => { viewer.viewport.zoomBy(0.5); viewer.viewport.applyConstraints(); });
  one("zoom-home").addEventListener("click", () => viewer.viewport.goHome());

  const sheet = document.createElement("canvas"), paint = sheet.getContext("2d");
  sheet.className = "layers";
  viewer.canvas.append(sheet);
  const layers = { tissue: one("layer-tissue"), grid: one("layer-grid"), attention: one("layer-attention") };
  const viridis = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37]];
  const colour = (level) => {
    const at = Math.min(Math.max(level, 0), 1) * (viridis.length - 1), low = Math.min(Math.floor(at), viridis.length - 2);
    const mixed = viridis[low].map((part, channel) => Math.round(part + (viridis[low + 1][channel] - part) * (at - low)));
    return `rgb(${mixed.join(" ")})`;
  };
  let rings = [], tiles = { extent: [0, 0], x: [], y: [], invalid: [], attention: null }, invalid = new Set();

  const draw = () => {
    const item = viewer.world.getItemAt(0);
    if (!item) return;
    const width = viewer.canvas.clientWidth, height = viewer.canvas.clientHeight, dense = window.devicePixelRatio || 1;
    sheet.width = Math.round(width * dense);
    sheet.height = Math.round(height * dense);
    const first = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
    const last = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(slide.width, 0));
    const scale = (last.x - first.x) / slide.width;
    one("scale").textContent = slide.mpp ? `${(slide.mpp / scale).toPrecision(2)} µm a screen pixel` : "";
    paint.setTransform(dense * scale, 0, 0, dense * scale, dense * first.x, dense * first.y);
    const [left, top] = [-first.x / scale, -first.y / scale], [right, bottom] = [left + width / scale, top + height / scale];
    const [across, down] = tiles.extent;
    const drawn = [];
    if (layers.grid.checked || layers.attention.checked) {
      for (let at = 0; at < tiles.x.length; at += 1) {
        if (tiles.x[at] < right && tiles.x[at] + across > left && tiles.y[at] < bottom && tiles.y[at] + down > top) drawn.push(at);
      }
    }
    if (layers.attention.checked && tiles.attention) {
      paint.globalAlpha = Number(one("opacity").value);
      for (const at of drawn) {
        if (tiles.attention[at] === null) continue;
        paint.fillStyle = colour(tiles.attention[at]);
        paint.fillRect(tiles.x[at], tiles.y[at], across, down);
      }
      paint.globalAlpha = 1;
    }
    if (layers.grid.checked) {
      paint.lineWidth = 1 / scale;
      for (const at of drawn) {
        paint.strokeStyle = invalid.has(at) ? "#d11a2a" : "rgb(29 78 216 / 70%)";
        paint.strokeRect(tiles.x[at], tiles.y[at], across, down);
        if (invalid.has(at)) {
          paint.fillStyle = "rgb(209 26 42 / 40%)";
          paint.fillRect(tiles.x[at], tiles.y[at], across, down);
        }
      }
    }
    if (layers.tissue.checked) {
      paint.lineWidth = 2 / scale;
      paint.strokeStyle = "#007954";
      paint.beginPath();
      for (const ring of rings) {
        ring.forEach(([x, y], at) => (at ? paint.lineTo(x, y) : paint.moveTo(x, y)));
        paint.closePath();
      }
      paint.stroke();
    }
    document.body.dataset.drawn = [rings.length && layers.tissue.checked ? "tissue" : "", drawn.length && layers.grid.checked ? "grid" : "", drawn.length && layers.attention.checked ? "attention" : ""].filter(Boolean).join(" ");
  };
  for (const name of ["open", "update-viewport", "resize", "animation", "animation-finish"]) viewer.addHandler(name, draw);
  for (const layer of Object.values(layers)) layer.addEventListener("change", draw);
  one("opacity").addEventListener("input", draw);

  try {
    const outlines = await asked(`${here}/tissue`);
    rings = outlines.features.flatMap(({ geometry }) => {
      if (geometry?.type === "Polygon") return geometry.coordinates;
      return geometry?.type === "MultiPolygon" ? geometry.coordinates.flat() : [];
    });
    tiles = await asked(`${here}/tiles`);
    invalid = new Set(tiles.invalid);
    if (invalid.size) one("invalid").textContent = `(${invalid.size} unreadable, red)`;
    layers.attention.disabled = !tiles.attention;
    layers.attention.checked = Boolean(tiles.attention);
  } catch (error) {
    note(error.message);
  }
  draw();
  document.body.dataset.ready = "yes";
})();
