"use strict";
(() => {
  const parsed = (id) => JSON.parse(document.getElementById(id).textContent);
  const [ID, CASE, KIND, REASON, FLAGS, UNLIKE, STAIN, SCANNER] = [0, 1, 2, 3, 4, 5, 6, 7];
  const NUMBERS = [[8, "Tiles"], [9, "Invalid"], [10, "Tissue, mm²"], [11, "Share"], [12, "Blurred"], [13, "Seconds"]];
  const PICTURE = 14, PAGE = 50, MOST_PRINTED = 500;
  const rows = parsed("rows"), titles = parsed("titles");
  const block = Number(document.getElementById("rows").dataset.block);
  const blocks = new Map();
  const table = document.querySelector("table.slides"), body = table.tBodies[0];
  const tools = document.querySelector(".tools");
  const text = tools.querySelector("input"), what = tools.querySelector("select");
  const [back, forth] = tools.querySelectorAll("button");
  const told = tools.querySelector("output");
  const words = rows.map((row) => [ID, CASE, REASON, STAIN, SCANNER].map((at) => row[at]).concat(row[FLAGS], row[UNLIKE]).join(" ").toLowerCase());
  let sorted = null, falling = false, page = 0;
  if (!rows.some((row) => row[KIND] !== "unchanged")) what.value = "";

  const picture = (number) => {
    const at = Math.floor(number / block);
    if (!blocks.has(at)) blocks.set(at, parsed(`pictures-${at}`));
    return `data:image/jpeg;base64,${blocks.get(at)[number % block]}`;
  };
  const add = (parent, tag, said, name) => {
    const made = parent.appendChild(document.createElement(tag));
    if (said !== undefined) made.textContent = said; // never as HTML: it came from files
    if (name) made.className = name;
    return made;
  };
  const line = (cell, badge, said) => {
    add(cell, "br");
    add(cell, "span", badge, badge === "unlike the past" ? "badge failed" : "badge empty");
    add(cell, "span", ` ${said}`, "small");
  };
  const draw = (row) => {
    const made = document.createElement("tr");
    const shown = add(made, "td", undefined, "picture");
    if (row[PICTURE] >= 0) {
      const image = add(shown, "img");
      image.alt = row[ID];
      image.src = picture(row[PICTURE]);
    } else add(shown, "span", row[KIND] === "unchanged" ? "" : "no picture", row[KIND] === "unchanged" ? "" : "nopicture");
    const name = add(made, "td", undefined, "name");
    add(name, "span", row[ID], "id");
    if (row[CASE]) {
      add(name, "br");
      add(name, "span", `case ${row[CASE]}`, "soft small");
    }
    const happened = add(made, "td", undefined, "wide");
    happened.dataset.label = "What happened";
    add(happened, "span", titles[row[KIND]], `badge ${row[KIND]}`);
    if (row[REASON]) add(happened, "span", ` ${row[REASON]}`, "small");
    for (const flag of row[FLAGS]) line(happened, "flag", flag);
    for (const flag of row[UNLIKE]) line(happened, "unlike the past", flag);
    for (const [at, label] of [[STAIN, "Stain"], [SCANNER, "Scanner"]]) add(made, "td", row[at], row[at] ? "" : "blank").dataset.label = label;
    for (const [at, label] of NUMBERS) {
      add(made, "td", row[at] === null ? "" : row[at].toLocaleString("en"), row[at] === null ? "n blank" : "n").dataset.label = label;
    }
    return made;
  };
  const fits = (row) => {
    if (what.value === "") return true;
    if (what.value === "happened") return row[KIND] !== "unchanged";
    if (what.value === "flagged") return row[FLAGS].length > 0 || row[UNLIKE].length > 0;
    return row[KIND] === what.value;
  };
  const matching = () => {
    const wanted = text.value.trim().toLowerCase();
    const found = rows.map((row, at) => at).filter((at) => fits(rows[at]) && (!wanted || words[at].includes(wanted)));
    if (sorted === null) return found;
    return found.sort((a, b) => {
      const x = rows[a][sorted], y = rows[b][sorted], none = (value) => value === null || value === "";
      if (none(x) || none(y)) return none(x) - none(y);
      const by = typeof x === "number" ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return falling ? -by : by;
    });
  };
  const show = (size = PAGE) => {
    const found = matching();
    const pages = Math.max(1, Math.ceil(found.length / size));
    page = Math.min(page, pages - 1);
    const visible = found.slice(page * size, (page + 1) * size);
    body.replaceChildren(...visible.map((at) => draw(rows[at])));
    back.hidden = forth.hidden = pages < 2;
    back.disabled = page === 0;
    forth.disabled = page >= pages - 1;
    const first = found.length ? page * size + 1 : 0;
    told.textContent = pages > 1 ? `${first}–${first + visible.length - 1} of ${found.length}` : `${found.length} of ${rows.length} slides`;
  };
  const sort = (head) => {
    const column = Number(head.dataset.sort);
    falling = sorted === column && !falling;
    sorted = column;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    page = 0;
    show();
  };
  for (const head of table.tHead.rows[0].cells) {
    if (!head.dataset.sort) continue;
    const button = document.createElement("span"); // Chromium does not print a <button> in a repeated table head
    button.role = "button";
    button.tabIndex = 0;
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head));
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort(head);
    });
    head.append(button);
  }
  for (const each of [text, what]) each.addEventListener("input", () => { page = 0; show(); });
  back.addEventListener("click", () => { page -= 1; show(); });
  forth.addEventListener("click", () => { page += 1; show(); });
  let kept = 0;
  window.addEventListener("beforeprint", () => { kept = page; page = 0; show(MOST_PRINTED); });
  window.addEventListener("afterprint", () => { page = kept; show(); });
  const dialog = document.querySelector("dialog");
  body.addEventListener("click", (event) => {
    const image = event.target.closest("td.picture img");
    if (!image) return;
    dialog.querySelector("img").src = image.src;
    dialog.querySelector("p").textContent = image.alt;
    dialog.showModal();
  });
  dialog.addEventListener("click", () => dialog.close());
  tools.hidden = false;
  show();
})();
